"""Where NVIDIA's driver is found on different machines, and what of it a node gets."""

from pathlib import Path

import pytest

from machine import nvidia_driver as host_driver
from machine.nvidia_driver import NODE_MPS_LIBRARIES, HostDriver, find, run
from tests.unit.host_machine import MULTIARCH, VERSION, Fake, in_one_folder

NODE_LIBRARIES, NODE_PROGRAMS = "/driver/usr/lib/x86_64-linux-gnu", "/driver/usr/bin"


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    return Fake(tmp_path)


def mounts(driver: HostDriver) -> dict[str, str]:
    """What is mounted, by its place in the node."""
    hosts = {mount.node: mount.host for mount in driver.mounts}
    assert len(hosts) == len(driver.mounts), "two mounts have one place"
    return hosts


def sources(driver: HostDriver) -> set[str]:
    return {file.source for file in (*driver.libraries, *driver.programs)}


def test_machine_without_a_driver_has_nothing_and_raises_nothing(fake: Fake):
    driver = find(None, fake.machine)
    assert (driver.version, driver.kernel_version, driver.libraries, driver.mounts) == (None, None, (), ())
    assert driver.missing == (*host_driver.LIBRARIES, "nvidia-smi")


def test_driver_in_one_folder_is_mounted_as_two_folders_and_for_nvidias_mps_daemon(tmp_path: Path):
    driver = find(None, in_one_folder(tmp_path).machine)
    assert driver.missing == () and sources(driver) == {"ldconfig -p", "PATH"}
    libraries = str(tmp_path / "usr/local/nvidia/lib64")
    assert mounts(driver) == {
        NODE_PROGRAMS: str(tmp_path / "usr/local/nvidia/bin"),
        NODE_LIBRARIES: libraries,
        NODE_MPS_LIBRARIES: libraries,
    }


def test_every_mount_is_read_only(tmp_path: Path):
    driver = find(None, in_one_folder(tmp_path).machine)
    assert driver.mounts and all(mount.for_kind["readOnly"] is True for mount in driver.mounts)


def test_one_folder_is_found_without_loader_and_path(fake: Fake):
    fake.libraries("usr/local/nvidia/lib64")
    fake.programs("usr/local/nvidia/bin")
    driver = find(None, fake.machine)
    assert driver.missing == () and sources(driver) == {"a usual root"}


def test_folder_that_nobody_usually_uses_is_found_beside_its_nvidia_smi_on_path(fake: Fake):
    fake.libraries("srv/gpu/lib64")
    fake.path = [fake.programs("srv/gpu/bin")]
    driver = find(None, fake.machine)
    assert driver.missing == () and sources(driver) == {"PATH", "beside nvidia-smi on PATH"}


def test_libraries_are_found_on_the_loaders_own_path(fake: Fake):
    fake.library_path = [fake.libraries("srv/libraries")]
    assert {file.source for file in find(None, fake.machine).libraries} == {"LD_LIBRARY_PATH"}


def test_of_a_distributions_folders_only_the_drivers_files_are_mounted(fake: Fake):
    fake.loader_cache(fake.libraries(MULTIARCH))
    fake.path = [fake.programs("usr/bin")]
    for other in (f"{MULTIARCH}/libc.so.6", f"{MULTIARCH}/libssl.so.3", "usr/bin/sh"):
        fake.write(other)
    fake.write(f"{MULTIARCH}/libnvidia-gpucomp.so.{VERSION}")
    found = mounts(find(None, fake.machine))
    names = {place.rpartition("/")[2] for place in found if place.startswith(NODE_LIBRARIES)}
    plain = {name.removesuffix(".1") for name in host_driver.LIBRARIES} | {"libnvidia-gpucomp.so"}
    assert names == {f"{name}.{VERSION}" for name in plain} | set(host_driver.LIBRARIES)
    assert {place for place in found if place.startswith(NODE_MPS_LIBRARIES)} == {
        f"{NODE_MPS_LIBRARIES}/{name}" for name in host_driver.LIBRARIES
    }
    assert f"{NODE_PROGRAMS}/nvidia-smi" in found and f"{NODE_PROGRAMS}/sh" not in found
    assert not {str(fake.root / MULTIARCH), str(fake.root / "usr/bin")} & set(found.values())


def test_links_are_mounted_as_the_files_that_they_mean(fake: Fake):
    store = fake.libraries("nix/store/abc-nvidia/lib")
    program = fake.programs("nix/store/abc-nvidia/bin")
    for folder, files in (("lib", store), ("bin", program)):
        (fake.root / "run/opengl-driver" / folder).mkdir(parents=True)
        for file in files.iterdir():
            if VERSION not in file.name:  # such a farm has the names that programs load
                (fake.root / "run/opengl-driver" / folder / file.name).symlink_to(file)
    driver = find(None, fake.machine)
    assert (driver.version, driver.missing) == (VERSION, ())
    found = mounts(driver)
    assert set(found.values()) <= {str(path) for folder in (store, program) for path in folder.iterdir()}
    # The CDI generator looks for the version in the name, NVIDIA's chart for the other one.
    for name in ("libnvidia-ml.so.1", f"libnvidia-ml.so.{VERSION}"):
        assert found[f"{NODE_LIBRARIES}/{name}"] == str(store / f"libnvidia-ml.so.{VERSION}")


def test_driver_root_of_the_config_is_the_only_place_that_is_looked_at(tmp_path: Path):
    fake = in_one_folder(tmp_path / "usual")
    fake.libraries("srv/lib64")
    fake.programs("srv/bin")
    driver = find(str(fake.root / "srv"), fake.machine)
    assert sources(driver) == {"gpu.driverRoot"}
    assert set(mounts(driver).values()) == {str(fake.root / "srv/lib64"), str(fake.root / "srv/bin")}
    assert not find(str(fake.root / "nowhere"), fake.machine).libraries


def test_libraries_of_the_kernel_modules_version_come_first(fake: Fake):
    fake.kernel_module()
    old, new = fake.libraries("opt/old", "470.256.02"), fake.libraries("opt/new")
    fake.loader_cache(old, new)
    assert find(None, fake.machine).version == VERSION
    fake.kernel_module("565.57.01")
    driver = find(None, fake.machine)
    assert (driver.kernel_version, driver.version) == ("565.57.01", "470.256.02")


def test_version_comes_from_the_kernel_module_where_no_library_names_one(fake: Fake):
    fake.kernel_module()
    for name in host_driver.LIBRARIES:
        fake.write(f"usr/lib64/{name}")
    driver = find(None, fake.machine)
    assert (driver.version, driver.version_from) == (VERSION, "/proc/driver/nvidia/version")


def test_libraries_of_the_other_word_size_are_left_alone(fake: Fake):
    fake.loader_cache(fake.libraries("usr/lib32"), word="libc6")
    assert find(None, fake.machine).libraries == ()


def test_aarch64_has_folders_and_a_word_of_its_own(fake: Fake):
    fake.architecture = "aarch64"
    fake.loader_cache(fake.libraries("usr/local/nvidia/lib64"), word="AArch64")
    driver = find(None, fake.machine)
    assert {file.source for file in driver.libraries} == {"ldconfig -p"}
    assert "/driver/usr/lib/aarch64-linux-gnu" in mounts(driver)


TOOLKIT = "etc/nvidia-container-runtime/config.toml"
ACCEPTS = "accept-nvidia-visible-devices-as-volume-mounts = true\n"


@pytest.mark.parametrize(
    ("config", "runtime", "used"),
    [
        (ACCEPTS, "nvidia", True),
        (ACCEPTS, "runc", False),
        ("#" + ACCEPTS, "nvidia", False),
        ("no = toml = at all", "nvidia", False),
    ],
)
def test_toolkit_is_used_where_it_takes_volumes_and_is_dockers_default(
    tmp_path: Path, config: str, runtime: str, used: bool
):
    fake = in_one_folder(tmp_path)
    fake.write(TOOLKIT, config)
    fake.answers["docker info"] = (0, f"{runtime}\n", "")
    driver = find(None, fake.machine)
    assert (driver.toolkit, driver.node_root) == ((True, "/") if used else (False, "/driver"))
    if used:
        assert mounts(driver) == {"/var/run/nvidia-container-devices/all": "/dev/null"}


def test_driver_root_of_the_config_is_mounted_whatever_the_toolkit_does(tmp_path: Path):
    fake = in_one_folder(tmp_path)
    fake.write(TOOLKIT, ACCEPTS)
    fake.answers["docker info"] = (0, "nvidia\n", "")
    assert not find(str(tmp_path / "usr/local/nvidia"), fake.machine).toolkit


def test_program_that_cannot_be_started_is_an_answer():
    code, out, error = run(("no-such-program-here",), {})
    assert (code, out) == (127, "") and "no-such-program-here" in error


def test_program_gets_more_environment_and_answers_with_all_it_says():
    assert run(("sh", "-c", "echo $MORE; echo no >&2; exit 14"), {"MORE": "more"}) == (14, "more\n", "no\n")
