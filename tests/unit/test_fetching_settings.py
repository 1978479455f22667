"""Settings of DVC remotes: what travels to a pod, what is secret, what a pod lacks."""

import json

import pytest

from emoverse.errors import UserError
from emoverse.fetching import missing_variables, public_settings, settings_from


@pytest.mark.parametrize("text", ["nonsense", "[]", "{}", '{"url": "s3://b", "secret_access_key": "x"}'])
def test_text_that_is_not_public_settings_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="not the public settings of a DVC remote"):
        settings_from(text, {})


def test_a_pod_needs_a_key_where_this_machine_has_its_own_and_any_one_secret_will_do() -> None:
    ssh = {"url": "ssh://example.org/raw"}
    assert missing_variables(ssh, ()) == ["EMOVERSE_REMOTE_KEYFILE"]
    assert missing_variables(ssh, ["EMOVERSE_REMOTE_PASSWORD"]) == []
    assert missing_variables({"url": "s3://raw"}, ["AWS_ACCESS_KEY_ID"]) == ["AWS_SECRET_ACCESS_KEY"]
    assert missing_variables({"url": "s3://raw", "allow_anonymous_login": True}, ()) == []
    assert missing_variables({"url": "https://example.org/raw"}, ()) == []


def test_a_password_in_the_address_is_refused_before_it_travels() -> None:
    with pytest.raises(UserError, match="contains a password; take it out"):
        public_settings({"url": "webdav://carl:hush@example.org/"}, place="raw/MELD")


def test_files_of_this_machine_do_not_travel() -> None:
    config = {"url": "s3://raw", "ssl_verify": "/etc/own-ca.pem", "credentialpath": "/home/carl/.aws", "region": "eu"}
    assert json.loads(public_settings(config, place="raw/MELD")) == {"url": "s3://raw", "region": "eu"}
    assert (
        json.loads(public_settings({"url": "s3://raw", "ssl_verify": False}, place="raw/MELD"))["ssl_verify"] is False
    )
