"""From YAML and command line overrides to checked dataclasses: Hydra ends here."""

import re
from typing import TypeVar, cast

from hydra import compose, initialize_config_module
from hydra.errors import ConfigCompositionException, HydraException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

Schema = TypeVar("Schema")


class ConfigError(ValueError):
    """A configuration that cannot be composed, or that fails its own checks."""


def configure(name: str, overrides: list[str], schema: type[Schema]) -> Schema:
    """`configs/NAME.yaml` with overrides such as `teacher=small trainer.steps=1000`, as an object of `schema`.

    Raises:
        ConfigError: an unknown key, preset or value, a mandatory value that is missing, or a failed check.
    """
    try:
        return cast(Schema, OmegaConf.to_object(_typed(name, overrides, schema)))
    except MissingMandatoryValue as error:
        raise ConfigError(
            f"{error.full_key} has no value: pass {error.full_key}=..., see `wavenet {name} --help`"
        ) from None
    except (OmegaConfBaseException, ValueError) as error:
        raise ConfigError(_one_line(error)) from None


def show(name: str, overrides: list[str], schema: type) -> str:
    """The composed configuration as YAML: names and types are right, the checks of `configure` are not yet made."""
    return OmegaConf.to_yaml(_typed(name, overrides, schema), resolve=True)


def _typed(name: str, overrides: list[str], schema: type) -> object:
    try:
        with initialize_config_module("configs", version_base="1.3"):
            composed = compose(name, overrides)
        return OmegaConf.merge(OmegaConf.structured(schema), composed)
    except OverrideParseException as error:
        raise ConfigError(f"{error.override} is no FIELD=VALUE ({_one_line(error)})") from None
    except ConfigCompositionException as error:
        raise ConfigError(f"{_fault(error)}; `wavenet {name} --cfg job` shows all that there is") from None
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_one_line(error)) from None


def _fault(error: ConfigCompositionException) -> str:
    """Hydra's message without its advice (to add a key, which the schema then refuses) and its search path."""
    return re.split(r"\.? (?:To append to your config|Config search path)", _one_line(error))[0]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
