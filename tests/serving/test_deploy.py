"""The files of deploy/: settings load, services and stages fit together."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from srr_guard.serving import load_config

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
