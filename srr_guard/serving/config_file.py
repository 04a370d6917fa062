"""Reads the gateway's settings from a YAML file, the environment and arguments."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource
from pydantic_settings.exceptions import SettingsError

from srr_guard.errors import ConfigurationError, InvalidInputError
from srr_guard.json_lines import utf8_text
from srr_guard.serving.config import GatewayConfig

Location = tuple[int | str, ...]

_NAMES = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge")


def load_config(file: str | os.PathLike[str] | None = None, **arguments: Any) -> GatewayConfig:
    """Read the settings; arguments win over environment variables, and these over the file.

    Args:
        file: A YAML file; None: environment and arguments only.
        **arguments: Fields of `GatewayConfig`; None stands for no argument.

    Raises:
        ConfigurationError: The file cannot be read, or a value makes no sense. The message
            names the file and the line of each.
    """
    document = _Document(file)
    _refuse_unknown_variables()
    given = {name: value for name, value in arguments.items() if value is not None}

    class FromFile(GatewayConfig):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, InitSettingsSource(settings_cls, document.data)

    try:
        return FromFile(**given)
    except ValidationError as error:
        raise ConfigurationError("\n".join(document.describe(error))) from error
    except SettingsError as error:
        raise ConfigurationError(f"the environment: {error}") from error


def _refuse_unknown_variables() -> None:
    prefix = str(GatewayConfig.model_config.get("env_prefix", ""))
    known = {f"{prefix}{name}".upper() for name in GatewayConfig.model_fields}
    for name in os.environ:
        if name.upper().startswith(prefix) and name.upper().split("__")[0] not in known:
            raise ConfigurationError(
                f"the environment variable {name!r} sets nothing: known are "
                f"{', '.join(sorted(known))}, with __ and the name of a part behind it"
            )


class _Document:
    """A YAML file that knows the lines of its values.

    Raises:
        ConfigurationError: It cannot be read, is no mapping, or has a key twice.
    """

    def __init__(self, file: str | os.PathLike[str] | None) -> None:
        self._name = None if file is None else os.fspath(file)
        self._root: yaml.Node | None = None
        self.data: dict[str, Any] = {}
        if file is None:
            return
        try:
            text = utf8_text(Path(file).read_bytes(), repr(self._name))
            self._root = yaml.compose(text, Loader=yaml.SafeLoader)
            loaded = yaml.safe_load(text)
        except OSError as error:
            raise ConfigurationError(f"{self._name!r} cannot be read: {error}") from error
        except InvalidInputError as error:
            raise ConfigurationError(str(error)) from error
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            mark = getattr(error, "problem_mark", None)
            place = self._place(mark.line + 1 if mark else None)
            problem = getattr(error, "problem", None) or error
            raise ConfigurationError(f"{place}: not valid YAML: {problem}") from error
        try:
            self._require_names(self._root)
        except RecursionError as error:
            raise ConfigurationError(f"{self._place(1)}: an alias holds itself") from error
        if not isinstance(loaded, dict | None):
            raise ConfigurationError(f"{self._place(1)}: give settings as `name: value`")
        self.data = loaded or {}

    def describe(self, error: ValidationError) -> Iterator[str]:
        """One line for each thing that is wrong."""
        for location, value, message in _errors(error):
            line, found = self._line(location)
            place = self._place(line if found else None)
            name = ".".join(map(str, location)) or "settings"
            shown = "" if isinstance(value, Mapping | list | tuple) else f"={value!r:.80}"
            if _is_secret(location):
                shown = ""
            yield f"{place}: {name}{shown}: {message.removeprefix('Value error, ')}"

    def _place(self, line: int | None) -> str:
        if line is None or self._name is None:
            return "arguments or environment" if self._name is None else str(self._name)
        return f"{self._name}:{line}"

    def _line(self, location: Location) -> tuple[int, bool]:
        """The line of a value, or of the nearest thing around it; False if it is not there."""
        node, line, found = self._root, 1, self._root is not None
        for part in location:
            step = _child(node, part)
            if step is None:
                break
            line, node = step
        else:
            return line, found
        return line, found and line > 1

    def _require_names(self, node: yaml.Node | None) -> None:
        """Refuse keys that come twice, and those that YAML reads as numbers and the like."""
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                place = self._place(key.start_mark.line + 1)
                if key.tag not in _NAMES:
                    raise ConfigurationError(f"{place}: {key.value!r} is no name: put it in quotes")
                if key.value in seen:
                    raise ConfigurationError(f"{place}: {key.value!r} is given twice")
                seen.add(key.value)
                self._require_names(value)
        elif isinstance(node, yaml.SequenceNode):
            for item in node.value:
                self._require_names(item)


def _child(node: yaml.Node | None, part: int | str) -> tuple[int, yaml.Node] | None:
    """Line and node of a part of a node."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(part):
                return key.start_mark.line + 1, value
    elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part].start_mark.line + 1, node.value[part]
    return None


def _errors(error: ValidationError, at: Location = ()) -> Iterator[tuple[Location, Any, str]]:
    """Place, value and message of each mistake, down into policies, which check themselves."""
    for found in error.errors():
        location = (*at, *found["loc"])
        raised = found.get("ctx", {}).get("error")
        inner = getattr(raised, "__cause__", None)
        if isinstance(inner, ValidationError):
            yield from _errors(inner, location)
        else:
            yield location, found.get("input"), found["msg"]


def _is_secret(location: Location) -> bool:
    return bool(location) and location[-1] == "key"
