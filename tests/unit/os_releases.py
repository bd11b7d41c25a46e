"""os-release files of distributions, written down from what is known of them and shortened to what set-up reads."""

import shlex

OS_RELEASE = {
    "debian-11": 'PRETTY_NAME="Debian GNU/Linux 11 (bullseye)"\nVERSION_ID="11"\nID=debian\n',
    "debian-12": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_ID="12"\nID=debian\n',
    "debian-13": 'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nVERSION_ID="13"\nID=debian\n',
    "debian-sid": 'PRETTY_NAME="Debian GNU/Linux forky/sid"\nVERSION_CODENAME=forky\nID=debian\n',
    "ubuntu-20.04": 'PRETTY_NAME="Ubuntu 20.04.6 LTS"\nVERSION_ID="20.04"\nID=ubuntu\nID_LIKE=debian\n'
    "UBUNTU_CODENAME=focal\n",
    "ubuntu-22.04": 'PRETTY_NAME="Ubuntu 22.04.5 LTS"\nVERSION_ID="22.04"\nID=ubuntu\nID_LIKE=debian\n'
    "UBUNTU_CODENAME=jammy\n",
    "ubuntu-24.04": 'PRETTY_NAME="Ubuntu 24.04.3 LTS"\nVERSION_ID="24.04"\nID=ubuntu\nID_LIKE=debian\n'
    "UBUNTU_CODENAME=noble\n",
    "mint-21": 'PRETTY_NAME="Linux Mint 21.3"\nVERSION_ID="21.3"\nID=linuxmint\nID_LIKE="ubuntu debian"\n'
    "UBUNTU_CODENAME=jammy\n",
    "fedora-43": 'PRETTY_NAME="Fedora Linux 43 (Workstation Edition)"\nVERSION_ID=43\nID=fedora\n',
    "rhel-9": 'PRETTY_NAME="Red Hat Enterprise Linux 9.6 (Plow)"\nVERSION_ID="9.6"\nID="rhel"\nID_LIKE="fedora"\n',
    "rocky-10": 'PRETTY_NAME="Rocky Linux 10.0 (Red Quartz)"\nVERSION_ID="10.0"\nID="rocky"\n'
    'ID_LIKE="rhel centos fedora"\n',
    "leap": 'PRETTY_NAME="openSUSE Leap 15.6"\nVERSION_ID="15.6"\nID="opensuse-leap"\nID_LIKE="suse opensuse"\n',
    "arch": 'PRETTY_NAME="Arch Linux"\nID=arch\n',
    "alpine": 'PRETTY_NAME="Alpine Linux v3.22"\nVERSION_ID=3.22.1\nID=alpine\n',
    "none": "",
}


def fields(system: str) -> dict[str, str]:
    """Fields of an os-release file, as `platform.freedesktop_os_release` gives them."""
    return {key: "".join(shlex.split(value)) for key, _, value in (line.partition("=") for line in lines(system))}


def lines(system: str) -> list[str]:
    """Lines of an os-release file."""
    return OS_RELEASE[system].splitlines()
