"""Downloads that give up at once where there is no internet."""

import socket
import sys
import threading
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from metasdf.errors import InputError

CONNECT_SECONDS = 3.0  # for looking up the host's name and connecting to it, in all
READ_SECONDS = 10  # for each answer of the host
DEFAULT_PORTS = {"http": 80, "https": 443, "socks5": 1080}


def download(url: str, md5: str, folder: Path) -> Path:
    """Fetch a file into a folder, whole and with its checksum verified; its path.

    Raises:
        InputError: the host cannot be reached within CONNECT_SECONDS, or the download fails.
    """
    import pooch  # slow to import, and rarely needed

    try:
        check_reachable(url)
        downloader = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=READ_SECONDS)
        name = url.rsplit("/", 1)[1]
        return Path(pooch.retrieve(url, f"md5:{md5}", name, folder, downloader=downloader))
    except (OSError, ValueError) as error:  # what requests and pooch raise
        reason = (str(error) or repr(error)).splitlines()[0][:80]
        raise InputError(f"{url}: cannot be downloaded ({reason})") from error


def check_reachable(url: str) -> None:
    """Connect to the host of a URL, or to the proxy that leads to it, and hang up.

    Raises:
        OSError: there is no connection within CONNECT_SECONDS.
        ValueError: the proxy's address is not one.
    """
    errors: list[OSError | ValueError] = []

    def connect() -> None:
        try:
            socket.create_connection(first_hop(url), timeout=CONNECT_SECONDS).close()
        except (OSError, ValueError) as error:
            errors.append(error)

    # Looking up a name has no time limit of its own, so a thread that hangs there is left behind.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    if thread.is_alive():
        raise TimeoutError(f"no connection within {CONNECT_SECONDS:g} s")
    if errors:
        raise errors[0]


def first_hop(url: str) -> tuple[str, int]:
    """Host name and port that a request for a URL connects to: its host's, or a proxy's.

    Raises:
        ValueError: the proxy's address is not one.
    """
    target = urlsplit(url)
    proxies = urllib.request.getproxies()
    proxy = proxies.get(target.scheme) or proxies.get("all")
    if proxy and not urllib.request.proxy_bypass(target.hostname or ""):
        target = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    if not target.hostname:
        raise ValueError(f"{target.geturl()}: names no host")
    return target.hostname, target.port or DEFAULT_PORTS.get(target.scheme, 80)
