"""What a task is: how rows become examples, which loss, which metric."""
