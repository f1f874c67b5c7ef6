"""What steps and files are judged by."""
