"""A user's kubeconfig: what it names by relative paths is found from any folder, and what is missing is told."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from settings import Settings, SettingsError, kubeconfig

RELATIVE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Config",
    "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "me"}}],
    "clusters": [{"name": "lab", "cluster": {"server": "https://lab:6443", "certificate-authority": "ca.crt"}}],
    "users": [{"name": "me", "user": {"client-certificate": "pki/me.crt", "client-key": "/keys/me.key"}}],
}


def write(folder: Path, content: dict[str, Any], *, files: bool = True) -> Path:
    path = folder / "config"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    if files:
        (folder / "pki").mkdir()
        for name in ("ca.crt", "pki/me.crt"):
            (folder / name).write_text(name)
    return path


def with_user(**user: Any) -> dict[str, Any]:
    return {**RELATIVE, "users": [{"name": "me", "user": user}]}


def test_files_are_named_from_the_kubeconfigs_folder(tmp_path: Path):
    content = kubeconfig.read(write(tmp_path, RELATIVE))
    cluster, user = kubeconfig.entries(content, "lab")
    assert cluster["certificate-authority"] == str(tmp_path / "ca.crt")
    assert user == {"client-certificate": str(tmp_path / "pki/me.crt"), "client-key": "/keys/me.key"}


@pytest.mark.parametrize(("command", "found"), [("./get", "{folder}/get"), ("aws", "aws"), ("/bin/get", "/bin/get")])
def test_program_that_gets_credentials_is_found_as_kubectl_finds_it(tmp_path: Path, command: str, found: str):
    content = kubeconfig.read(write(tmp_path, with_user(exec={"command": command, "args": ["token"]})))
    program = kubeconfig.entries(content, "lab")[1]["exec"]
    assert program == {"command": found.format(folder=tmp_path), "args": ["token"]}


def test_text_is_the_files_own_where_it_means_the_same_everywhere(tmp_path: Path):
    # Another text would be a changed provider in the next preview.
    written = write(tmp_path, with_user(token="t")).read_text().replace("ca.crt", "/pki/ca.crt") + "# mine\n"
    (tmp_path / "config").write_text(written)
    assert kubeconfig.text(tmp_path / "config") == written


def test_text_names_every_file_in_full_and_holds_none_of_their_content(tmp_path: Path):
    text = kubeconfig.text(write(tmp_path, RELATIVE))
    assert yaml.safe_load(text) == kubeconfig.read(tmp_path / "config")
    assert f"client-certificate: {tmp_path}/pki/me.crt" in text and "-data" not in text


def test_tokens_file_is_one_of_them(tmp_path: Path):
    content = kubeconfig.read(write(tmp_path, with_user(tokenFile="token")))
    assert kubeconfig.entries(content, "lab")[1] == {"tokenFile": str(tmp_path / "token")}


@pytest.mark.parametrize("user", [None, {}, {"token": "t"}])
def test_cluster_or_user_that_is_not_there_is_empty(tmp_path: Path, user: dict[str, Any] | None):
    content = kubeconfig.read(write(tmp_path, {**RELATIVE, "clusters": None, "users": [{"name": "me", "user": user}]}))
    assert kubeconfig.entries(content, "lab") == ({}, user or {})


def test_context_that_is_not_there_is_named(tmp_path: Path):
    content = kubeconfig.read(write(tmp_path, RELATIVE))
    with pytest.raises(kubeconfig.KubeconfigError, match="has no context home, but lab"):
        kubeconfig.entries(content, "home")


def test_stack_with_a_file_that_is_missing_is_refused_before_anything(tmp_path: Path):
    path = write(tmp_path, {**RELATIVE, "users": None}, files=False)
    cluster = {"provider": "existing", "kubeconfig": str(path), "context": "lab"}
    with pytest.raises(SettingsError) as caught:
        Settings.parse({"cluster": cluster, "gpu": {"nodes": [{"name": "a"}]}}, "guest")
    (problem,) = caught.value.problems
    assert (problem.key, problem.value) == ("cluster.kubeconfig", str(path))
    assert problem.rule.startswith(
        f"names the file {tmp_path}/ca.crt as certificate-authority of the context, which is"
    )
    assert problem.remedy.startswith("put the file there")


def test_file_of_another_context_is_not_looked_for(tmp_path: Path):
    content = with_user(token="t")
    content["clusters"] = [{"name": "lab", "cluster": {"server": "https://lab:6443"}}, *RELATIVE["clusters"]]
    content["clusters"][1]["name"] = "other"
    content = kubeconfig.read(write(tmp_path, content, files=False))
    assert list(kubeconfig.missing_files(content, "lab")) == []


def test_content_in_the_kubeconfig_stands_above_a_file(tmp_path: Path):
    content = with_user(**{"client-key": "gone", "client-key-data": "Z29uZQ=="})
    content = kubeconfig.read(write(tmp_path, content))
    assert list(kubeconfig.missing_files(content, "lab")) == []
