from __future__ import annotations

from pathlib import Path

import pytest

from unisono.main import config
from unisono.main.config import ConfigErrors

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "configuration.md"

WRONG = [
    ({"UNISONO_HTTP_PORT": "eighty"}, "UNISONO_HTTP_PORT", "eighty", "must be a whole number"),
    ({"UNISONO_HTTP_PORT": "70000"}, "UNISONO_HTTP_PORT", "70000", "less than or equal to 65535"),
    ({"UNISONO_CYCLE_S": "0.1"}, "UNISONO_CYCLE_S", "0.1", "greater than or equal to 0.5"),
    ({"UNISONO_CYCLE_S": "nan"}, "UNISONO_CYCLE_S", "nan", "must be a finite number"),
    ({"UNISONO_LEASE_S": "10"}, "UNISONO_LEASE_S", 10.0, "at least 3 cycles (12 s)"),
    ({"UNISONO_LOG_LEVEL": "LOUD"}, "UNISONO_LOG_LEVEL", "LOUD", "must be 'DEBUG'"),
    ({"UNISONO_HTPP_PORT": "1"}, "UNISONO_HTPP_PORT", "1", "did you mean http_port?"),
    ({"UNISONO_TELEMETRY_PORT": "8080"}, "UNISONO_TELEMETRY_PORT", 8080, "another port than http_port"),
    ({"UNISONO_HTTP_HOST": "not an address"}, "UNISONO_HTTP_HOST", "not an address", "IP address or a host's name"),
    ({"UNISONO_HISTORY_URL": "ftp://x"}, "UNISONO_HISTORY_URL", "ftp://x", "s3://"),
    ({"UNISONO_NATS_URL": "foo"}, "UNISONO_NATS_URL", "**********", "must begin with nats://"),
    ({"UNISONO_DATABASE_URL": "mysql://x"}, "UNISONO_DATABASE_URL", "**********", "must begin with postgresql://"),
    ({"UNISONO_CONFIG": "/nowhere/unisono.toml"}, "file", "/nowhere/unisono.toml", "No such file"),
]


@pytest.mark.parametrize(("environ", "field", "value", "rule"), WRONG)
def test_a_bad_setting_is_named_with_its_value_and_the_rule(
    environ: dict[str, str], field: str, value: object, rule: str
) -> None:
    with pytest.raises(ConfigErrors) as caught:
        config.load(environ=environ)
    (error,) = caught.value.errors
    assert (error.field, error.value) == (field, value)
    assert rule in error.rule


def test_all_bad_settings_are_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "unisono.toml"
    path.write_text('http_port = "x"\nnothing = 1\n')
    with pytest.raises(ConfigErrors) as caught:
        config.load(path, {"UNISONO_HOLD_S": "1"})
    assert [error.field for error in caught.value.errors] == [
        f"{path}: http_port",
        "UNISONO_HOLD_S",
        f"{path}: nothing",
    ]


def test_the_environment_goes_before_the_file(tmp_path: Path) -> None:
    path = tmp_path / "unisono.toml"
    path.write_text('http_port = 1000\ncycle_s = 2.0\ndata_dir = "here"\n')
    settings = config.load(path, {"UNISONO_HTTP_PORT": "2000", "UNISONO_DATA": "traces", "UNISONO_API_KEY": "k"})
    assert (settings.http_port, settings.cycle_s, settings.folder) == (2000, 2.0, Path("here").absolute())


def test_a_file_that_is_no_toml_says_where(tmp_path: Path) -> None:
    path = tmp_path / "unisono.toml"
    path.write_text("http_port 80")
    with pytest.raises(ConfigErrors, match=r"is no TOML.*line 1"):
        config.load(path, {})


def test_secrets_are_shown_to_nobody() -> None:
    environ = {"UNISONO_DATABASE_URL": "postgresql://u:hush@h/d", "UNISONO_NATS_PASSWORD": "hush"}
    settings = config.load(environ=environ)
    assert "hush" not in config.shown(settings) + repr(settings)
    with pytest.raises(ConfigErrors) as caught:
        config.load(environ=environ | {"UNISONO_CYCLE_S": "9", "UNISONO_LEASE_S": "6"})
    assert "hush" not in str(caught.value)


def test_what_is_shown_is_a_settings_file_but_for_the_secrets(tmp_path: Path) -> None:
    odd = 'a "quoted" \\ folder \N{SNOWMAN} \x7f'
    environ = {
        "UNISONO_DATA_DIR": odd,
        "UNISONO_CYCLE_S": "2.5",
        "UNISONO_MQTT_CLIENT_TLS": "false",
        "UNISONO_MQTT_CLIENT_VERSION": "4",
        "UNISONO_HISTORY_URL": "s3://bucket/history",
        "UNISONO_NATS_PASSWORD": "hush",
    }
    settings = config.load(environ=environ)
    path = tmp_path / "unisono.toml"
    path.write_text(config.shown(settings), "utf-8")
    again = config.load(path, {"UNISONO_NATS_PASSWORD": "hush"})
    assert again == settings
    assert config.load(path, {}).nats_password.get_secret_value() == ""


def test_the_reference_page_is_current() -> None:
    assert PAGE.read_text("utf-8") == config.reference_page(), f"write it anew: unisono config reference {PAGE}"


def test_every_setting_is_described() -> None:
    assert all(field.description for field in config.Settings.model_fields.values())
