"""The files in deploy/: valid by the schemas of their programs, and true to the code that they start."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from api_server import ApiServer, cog_at, wait_for_runs
from cloudcoil.models.keda import v1alpha1 as keda
from ports import free_port
from predictions_api.configuration import parser, read_settings
from predictions_api.metrics import Metrics
from predictions_api.settings import Settings
from psycopg.pq import Conninfo
from tree import ROOT
from videokit.weights.store import WeightStore

DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
SERVICES = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
MODELS = re.findall(r"dns\+http://(.*):5000", (DEPLOY / "api.toml").read_text())
TOKENS_FILE = Path(tomllib.loads((DEPLOY / "api.toml").read_text())["tokens_file"])


def objects(kind: str) -> dict[str, Any]:
    """Return the Kubernetes objects of a kind by name."""
    documents = [item for path in KUBERNETES.glob("*.yaml") for item in yaml.safe_load_all(path.read_text())]
    return {item["metadata"]["name"]: item for item in documents if item["kind"] == kind}


def container(name: str) -> Any:
    return objects("Deployment")[name]["spec"]["template"]["spec"]["containers"][0]


def commands() -> dict[str, list[str]]:
    """Return the arguments of each API server in deploy/, with values for variables."""
    entrypoint = json.loads((DEPLOY / "Dockerfile").read_text().partition("ENTRYPOINT ")[2])[3:]
    variable = re.compile(r"\$\{.*?\}|http://\$\(POD_IP\)")
    flags = {name: SERVICES[name]["command"] for name in ("api-1", "api-2")}
    flags["Kubernetes"] = container("predictions-api")["args"]
    unit = (DEPLOY / "predictions-api.service").read_text().partition("ExecStart=")[2].partition("\n")[0]
    filled = {name: [*entrypoint, *(variable.sub("http://a", flag) for flag in flags[name])] for name in flags}
    return {**filled, "systemd": shlex.split(unit)[3:]}


def settings_of(arguments: list[str]) -> Settings:
    parsed = parser().parse_args(arguments)
    assert parsed.config == Path("/etc/predictions-api/api.toml")
    parsed.config = DEPLOY / "api.toml"
    return read_settings(parsed, {})


def test_compose_yaml_is_valid_by_the_compose_specification() -> None:
    command = ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(DEPLOY / "compose.yaml")]
    subprocess.run([Path(sys.executable).with_name(command[0]), *command[1:]], check=True)


@pytest.mark.parametrize("path", sorted(KUBERNETES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_object_is_valid_by_the_schemas_of_kubernetes_and_keda(path: Path) -> None:
    for item in yaml.safe_load_all(path.read_text()):
        if item["kind"] == "ScaledObject":
            read = keda.ScaledObject.model_validate(item)
            assert read.model_dump(by_alias=True, exclude_unset=True, mode="json") == item  # no unknown member
        elif item["kind"] != "Kustomization":
            kubernetes_validate.validate(item, "1.34", strict=True)


def test_the_kustomization_names_every_file_and_image() -> None:
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    assert {*kustomization["resources"], "kustomization.yaml"} == {path.name for path in KUBERNETES.iterdir()}
    assert {image["name"] for image in kustomization["images"]} == {
        container(name)["image"] for name in objects("Deployment")
    }


@pytest.mark.parametrize("name", commands())
def test_an_api_server_starts_with_the_flags_and_the_file_of_deploy(name: str) -> None:
    settings = settings_of(commands()[name])
    assert (settings.host, settings.port, settings.tokens_file) == ("0.0.0.0", 8000, TOKENS_FILE)
    assert settings.data == Path("/var/lib/predictions-api" if name == "systemd" else "/data")
    documented = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["serve"]["documented"]
    assert [f"{model.name}:{model.versions[0]}" for model in settings.models] == [documented[name] for name in MODELS]


def test_each_model_has_its_workers_and_files_under_the_names_in_api_toml() -> None:
    copied = re.findall(
        r"COPY (.*)/openapi.json .*/README.md /etc/predictions-api/(.*)/\n", (DEPLOY / "Dockerfile").read_text()
    )
    assert copied == [(name, name) for name in MODELS]
    for name, model in zip(MODELS, settings_of(commands()["api-1"]).models, strict=True):
        assert model.urls == (f"dns+http://{name}:5000",)
        assert (model.schema, model.readme) == (DEPLOY / name / "openapi.json", DEPLOY / name / "README.md")
        service = objects("Service")[name]["spec"]
        assert (service["clusterIP"], service["ports"][0]["port"]) == ("None", 5000)
        assert SERVICES[name]["image"] == container(name)["image"] == name  # as script/build calls it
        query = objects("ScaledObject")[name]["spec"]["triggers"][0]["metadata"]["query"]
        assert set(re.findall(r'model="(.*?)"', query)) == {model.name}


def test_ports_paths_and_variables_are_those_of_the_code() -> None:
    api, worker = container("predictions-api"), container("zeroscope")
    assert api["ports"][0]["containerPort"] == Settings(models=()).port == 8000
    assert api["readinessProbe"]["httpGet"]["path"] in {"/health"}
    assert {item["name"] for item in api["env"]} - {"POD_IP"} == set(SERVICES["api-1"]["environment"])
    assert b"PGPASSWORD" in {option.envvar for option in Conninfo.get_defaults()}  # read by libpq
    environ = {item["name"]: item["value"] for item in worker["env"]}
    assert environ == SERVICES["zeroscope"]["environment"]
    assert WeightStore.from_environment({}, "zeroscope", ROOT / "zeroscope", environ).cache == Path("/weights")


def test_the_file_of_tokens_is_where_each_deployment_puts_it(tmp_path: Path) -> None:
    directory = str(TOKENS_FILE.parent)
    for name in ("api-1", "api-2"):
        (mount,) = [item for item in SERVICES[name]["volumes"] if isinstance(item, dict)]
        assert (mount["target"], mount["source"]) == (directory, "./tokens")
    pod = objects("Deployment")["predictions-api"]["spec"]["template"]["spec"]
    assert {"name": "tokens", "mountPath": directory, "readOnly": True} in pod["containers"][0]["volumeMounts"]
    (secret,) = [volume["secret"] for volume in pod["volumes"] if volume["name"] == "tokens"]
    assert secret["items"][0]["path"] == TOKENS_FILE.name
    lines = (DEPLOY / "predictions-api.service").read_text().splitlines()
    unit = dict(line.split("=", 1) for line in lines if "=" in line)
    assert f"/run/{unit['RuntimeDirectory']}" == directory
    assert unit["ExecStartPre"] == unit["ExecReload"]
    command = shlex.split(unit["ExecReload"].removeprefix("+"))
    assert command[-1] == str(TOKENS_FILE)
    source, copied = tmp_path / "source", tmp_path / "tokens"
    for token in ("old", "new"):
        source.write_text(token)
        subprocess.run([*command[:-2], source, copied], check=True)
        assert copied.read_text() == token
    readme = (DEPLOY / "README.md").read_text()
    for path in ("deploy/tokens/tokens", command[-2]):
        assert re.search(rf"install .*/dev/stdin {path} <<<", readme)


def test_alerts_dashboard_and_scaling_use_metrics_that_exist() -> None:
    metrics = Metrics()
    metrics.count_end("a/b", "succeeded", 0, 1, 2)
    metrics.request_count.labels("GET", "/", "200").inc()
    known = set(re.findall(r"^(\w+)", metrics.text({}, {"a/b": 1}).decode(), re.MULTILINE))
    files = [DEPLOY / "alerts.yaml", DEPLOY / "grafana.json", *(KUBERNETES / f"{name}.yaml" for name in MODELS)]
    used = {name for path in files for name in re.findall(r"\b(?:predictions?_|cog_|requests_)\w+", path.read_text())}
    assert used - known == set()
    assert {"predictions_waiting", "predictions_running", "cog_servers"} <= used


def test_the_pre_stop_hook_of_a_worker_waits_for_the_end_of_its_prediction(tmp_path: Path) -> None:
    port, runs, go = free_port(), tmp_path / "runs", tmp_path / "go"
    hook = container("animate-diff")["lifecycle"]["preStop"]["exec"]["command"][2]
    assert hook.replace("time.sleep(10)\n", "") == SERVICES["animate-diff"]["pre_stop"][0]["command"][2]
    urls = {"text": [f"http://127.0.0.1:{port}"]}
    with (
        cog_at("127.0.0.1", port, tmp_path / "cog") as cog,
        ApiServer(tmp_path / "api", models=["text"], urls=urls) as server,
    ):
        running = server.create("text", mark=str(runs), hold=str(go))["id"]
        wait_for_runs(runs)
        script = hook.replace("127.0.0.1:5000", f"127.0.0.1:{port}").replace("sleep(10)", "sleep(0)")
        with subprocess.Popen([sys.executable, "-c", script]) as waiting:
            with pytest.raises(subprocess.TimeoutExpired):
                waiting.wait(2)
            go.touch()
            assert waiting.wait(60) == 0
        cog.terminate()
        assert server.wait_for(running)["status"] == "succeeded"


def test_the_api_runs_with_a_read_only_root_file_system(tmp_path: Path) -> None:
    def read_only(command: list[str], directory: Path) -> list[str]:
        mounts = 'mount --bind "$0" "$0" && mount -o remount,ro,bind / && TMPDIR="$0" exec "$@"'
        return ["unshare", "--mount", "sh", "-c", mounts, str(directory), *command]

    if os.geteuid() != 0:
        pytest.skip("a mount namespace needs root")
    with ApiServer(tmp_path, models=["text"], run_with=read_only) as server:
        assert server.http.get("/health").json() == {"status": "ok"}
        content = b"x" * 2_000_000  # more than is kept in memory
        uploaded = server.http.post("/files", files={"content": ("notes.txt", content)})
        assert uploaded.status_code == 201, uploaded.text
