"""A page as PDF, printed by the browser that is installed."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from .errors import MissingToolError
from .tools import make_file

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "microsoft-edge")
TIMEOUT_S = 120


def print_pdf(page: Path, pdf: Path) -> None:
    """Print a page.

    Raises:
        MissingToolError: if there is no such browser, or it prints nothing.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise MissingToolError(f"no report.pdf: it is printed by one of {', '.join(BROWSERS)}, and none is installed")
    with tempfile.TemporaryDirectory() as profile:
        command = [browser, "--headless", "--disable-gpu", f"--user-data-dir={profile}", "--no-pdf-header-footer"]
        if os.geteuid() == 0:
            command.append("--no-sandbox")  # Chromium's own does not start as root; the page loads nothing.
        command += [f"--print-to-pdf={pdf.resolve()}", page.resolve().as_uri()]
        if failed := make_file(command, pdf, TIMEOUT_S):
            raise MissingToolError(f"no report.pdf: {browser} did not print it ({failed})")
