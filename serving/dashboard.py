"""Serve's REST API on the Ray dashboard: reads what is deployed, replaces it, and waits for the result."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

import requests

from configs.schema.serving import ServingSpec
from configs.waiting import waiting

POLL_S = 0.2
START_S = 90  # the dashboard itself gives up after 60
log = logging.getLogger(__name__)

Application = dict[str, Any]  # shaped as ray.serve.schema.ServeApplicationSchema


class DeployError(Exception):
    """A deployment did not come about; the first line says why, Ray's own message may follow."""


class Dashboard:
    """Serve as its REST API shows it: applications by name, each as it was last written.

    `settings(seconds)` gives the environment of Serve's processes for requests that may take so long. It is called
    where one machine is the whole cluster and Serve does not run yet: a running Serve cannot be changed.
    """

    def __init__(
        self,
        dashboard_url: str,
        headers: Mapping[str, str],
        spec: ServingSpec,
        settings: Callable[[float], Mapping[str, str]] = lambda _: {},
    ) -> None:
        self._dashboard = dashboard_url.rstrip("/")
        self._url = f"{self._dashboard}/api/serve/applications/"
        self._spec = spec
        self._http, self._client = requests.Session(), requests.Session()
        self._http.trust_env = self._client.trust_env = False  # a company proxy cannot reach a loopback address
        self._http.headers.update(headers)
        self._options: dict[str, Any] = {}
        self._settings = settings
        self._runs = False
        host = f"[{spec.host}]" if ":" in spec.host else spec.host
        self.address = f"http://{host}:{spec.port}"

    def check(self) -> dict[str, Application]:
        """As `read`, but raises `DeployError` also where Serve would cut the requests of the service short."""
        applications = self.read()
        limit, own = self._options.get("request_timeout_s"), self._spec.request_timeout_s
        if limit is not None and limit <= own:
            raise DeployError(
                f"serving.request_timeout_s={own:g}: Serve ends requests after {limit:g} s, twice that of the service "
                f"it was started for, and cannot change it while it runs; set less than {limit:g}, or make down and "
                "make up, and deploy this service first"
            )
        return applications

    def read(self) -> dict[str, Application]:
        """The deployed applications. Raises `DeployError` where Serve does not, or cannot, listen at our address."""
        details = self._details()
        running = {key: value for key, value in (details.get("http_options") or {}).items() if value is not None}
        wanted = (self._spec.host, self._spec.port)
        if running and (running["host"], running["port"]) != wanted:
            raise DeployError(
                f"Serve already listens on {running['host']}:{running['port']} and cannot move to "
                f"{wanted[0]}:{wanted[1]} while it runs; set serving.host and serving.port to the former"
            )
        if not running:
            _refuse_taken_port(*wanted)
        # One limit for all services; each keeps its own shorter one, which no client can switch off.
        first = {"host": wanted[0], "port": wanted[1], "request_timeout_s": 2 * self._spec.request_timeout_s}
        self._options = running or first
        self._runs = bool(running)
        applications = details["applications"]
        return {name: each["deployed_app_config"] for name, each in applications.items() if each["deployed_app_config"]}

    def write(self, applications: Mapping[str, Application]) -> None:
        """Replace all applications."""
        body: dict[str, Any] = {
            "proxy_location": "HeadOnly",
            "http_options": self._options,
            "applications": list(applications.values()),
        }
        if not self._runs:
            self._start(body)
        self._ask("PUT", json=body)

    def _start(self, body: Mapping[str, Any]) -> None:
        """Start Serve without an application; a slow start is waited for with the application that follows."""
        environment = dict(self._settings(self._options["request_timeout_s"])) if self._is_one_machine() else {}
        options = {"controller_options": {"runtime_env": {"env_vars": environment}}} if environment else {}
        try:
            self._ask("PUT", json={**body, **options, "applications": []}, timeout=START_S)
        except DeployError as error:
            log.warning("Serve is slow to start: %s", str(error).splitlines()[0])
        self._runs = True

    def _is_one_machine(self) -> bool:
        """Whether all replicas will be on the machine of the proxy: they take requests at the loopback address."""
        hosts = f"{self._dashboard}/nodes?view=hostNameList&at={time.monotonic_ns()}"  # a new query passes by a cache
        try:
            return len(self._http.get(hosts, timeout=10).json()["data"]["hostNameList"]) == 1
        except (requests.RequestException, ValueError, KeyError):
            return False

    def wait(self, name: str, deadline: float) -> None:
        """Return once the application runs. Raises `DeployError` with Ray's reason if it fails, or at the deadline."""
        state = {"status": "NOT_STARTED", "message": ""}
        with waiting(lambda: f"waiting for {name} to run: it is {state['status']}; {_blocked(state)}"):
            while True:
                state = self._details()["applications"].get(name, state)
                if state["status"] == "RUNNING":
                    return
                if state["status"] in ("DEPLOY_FAILED", "UNHEALTHY"):
                    messages = [each.get("message", "") for each in state.get("deployments", {}).values()]
                    raise DeployError(_reason("\n".join(filter(None, [state["message"], *messages]))))
                if time.monotonic() > deadline:
                    raise DeployError(f"{name} is still {state['status']} after the time given; {state['message']}")
                time.sleep(POLL_S)

    def wait_gone(self, name: str, deadline: float) -> None:
        """Return once no replica of the application is left."""
        while (state := self._details()["applications"].get(name)) is not None:
            if time.monotonic() > deadline:
                raise DeployError(f"{name} is still {state['status']} after the time given; {state['message']}")
            time.sleep(POLL_S)

    def wait_answering(
        self, entry: Mapping[str, Any], deadline: float, service_asks: bool = False, catalogue_asks: bool = False
    ) -> None:
        """Return once the proxy routes to the service, and the catalogue lists its new version.

        `service_asks`, `catalogue_asks`: for API keys, of which a deployment has none; then it is refused.
        """
        wanted = 401 if service_asks else 405
        while True:
            try:
                catalogue, service = (self._asked(f"/v1/{name}") for name in ("models", entry["service"]))
                listed = entry in catalogue.json().get("models", [])
                if (catalogue.status_code == 401 if catalogue_asks else listed) and service.status_code == wanted:
                    return
            except (requests.RequestException, ValueError):
                pass  # the proxy is still starting
            if time.monotonic() > deadline:
                raise DeployError(f"{self.address} does not answer for {entry['service']} in the time given")
            time.sleep(POLL_S)

    def _asked(self, path: str) -> requests.Response:
        """A GET as any client sends it, without the dashboard's token."""
        return self._client.get(f"{self.address}{path}", timeout=5)

    def _details(self) -> dict[str, Any]:
        try:
            return self._ask("GET").json()
        except ValueError:
            raise DeployError(f"{self._url} answers no JSON; something else than a Ray dashboard is there") from None

    def _ask(self, method: str, json: Any = None, timeout: float = 60) -> requests.Response:
        try:
            response = self._http.request(method, self._url, json=json, timeout=timeout)
        except requests.RequestException as error:
            raise DeployError(f"the Ray dashboard at {self._url} does not answer: {type(error).__name__}") from None
        if response.status_code in (401, 403):
            raise DeployError(f"the Ray dashboard at {self._url} refused the token (HTTP {response.status_code})")
        if not response.ok:
            raise DeployError(f"the Ray dashboard answered HTTP {response.status_code}\n{response.text}")
        return response


def _blocked(state: Mapping[str, Any]) -> str:
    """What Ray says of a deployment that does not get on, in its first line."""
    messages = [state["message"], *(each.get("message", "") for each in state.get("deployments", {}).values())]
    return next((message.strip().splitlines()[0] for message in messages if message.strip()), "Ray gives no reason")


def _reason(message: str) -> str:
    """Ray's message, headed by the one line of it that names the error."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    named = [line for line in lines if "Error: " in line and not line.startswith(("ray::", "File "))]
    return "\n".join([named[-1] if named else (lines or ["Ray gives no reason"])[0], *lines])


def _refuse_taken_port(host: str, port: int) -> None:
    """Serve binds with SO_REUSEPORT and would share a taken port, so that each program gets half of the requests."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise DeployError(f"port {port} of {host}: {error.strerror}; choose another serving.port") from None
