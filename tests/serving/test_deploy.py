"""The files of deploy/: settings load, services and stages fit together."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

from srr_guard.serving import load_config
from srr_guard.serving.metrics import Metrics

FOLDER = Path(__file__).parents[2] / "deploy"


def test_the_settings_load(tmp_path):
    text = (FOLDER / "serve.yaml").read_text().replace("/run/secrets", str(tmp_path))
    for name in ("openai.key", "web.key"):
        (tmp_path / name).write_text(f"secret-{name}")
    (tmp_path / "serve.yaml").write_text(text)
    config = load_config(tmp_path / "serve.yaml")
    assert config.scorer.urls == ("http://scorer:8321/v1",)
    assert config.keys[0].name == "web"


def test_services_and_stages_fit_together():
    compose = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    services = compose["services"]
    stages = re.findall(r"^FROM \S+ AS (\w+)", (FOLDER / "Dockerfile").read_text(), re.MULTILINE)
    assert {services[name]["build"]["target"] for name in ("gateway", "scorer")} <= set(stages)
    for service in services.values():
        assert service["read_only"] is True
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (FOLDER / source).is_file()
    scraped = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())["scrape_configs"][0]
    (targets,) = scraped["static_configs"]
    assert {target.split(":")[0] for target in targets["targets"]} <= set(services)


def test_images_run_without_root():
    text = (FOLDER / "Dockerfile").read_text()
    for stage in ("gateway", "scorer"):
        body = re.search(rf"^FROM base AS {stage}$(.*?)(?=^FROM|\Z)", text, re.M | re.S)
        assert body is not None
        assert "\nUSER 10001\n" in body[1]


def test_the_dashboard_shows_every_metric_and_no_other():
    metrics = Metrics(inside=lambda: 0, waiting=lambda: 0)
    names = set(re.findall(r"^# TYPE (srr_guard_\w+) (?!unknown)", metrics.text().decode(), re.M))
    names = {name for name in names if not name.endswith("_created")}
    dashboard = json.loads((FOLDER / "grafana" / "dashboard.json").read_text())
    queries = " ".join(t["expr"] for panel in dashboard["panels"] for t in panel["targets"])
    shown = {name.removesuffix("_bucket") for name in re.findall(r"srr_guard_\w+", queries)}
    assert shown == names
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_grafana_finds_dashboard_and_prometheus():
    service = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]["grafana"]
    inside = {v.split(":")[0]: v.split(":")[1] for v in service["volumes"]}
    provider = yaml.safe_load((FOLDER / "grafana" / "provider.yaml").read_text())["providers"][0]
    assert inside["./grafana/dashboard.json"].startswith(provider["options"]["path"] + "/")
    source = yaml.safe_load((FOLDER / "grafana" / "datasource.yaml").read_text())["datasources"][0]
    dashboard = json.loads((FOLDER / "grafana" / "dashboard.json").read_text())
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {source["uid"]}


def test_the_fleet_of_kuberay_is_one_that_can_be_built():
    service = yaml.safe_load((FOLDER / "kuberay.yaml").read_text())
    assert (service["apiVersion"], service["kind"]) == ("ray.io/v1", "RayService")
    (app,) = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
    module, builder = app["import_path"].split(":")
    source = (FOLDER.parent / "integrations" / f"{module.replace('.', '/')}.py").read_text()
    assert f"def {builder}(" in source
    fields = set(re.findall(r"^    (\w+): .+$", source.split("class FleetSettings")[1], re.M))
    assert set(app["args"]) <= fields
    cluster = service["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert {"rayStartParams", "template"} <= set(group)
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        mounts = {mount["name"] for c in pod["containers"] for mount in c["volumeMounts"]}
        assert mounts == {volume["name"] for volume in pod["volumes"]}
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
