"""Validate a CycloneDX bill of materials against its schema; needs `cyclonedx-bom`.

python tools/check_sbom.py dist/srr_guard.cdx.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator


def main() -> None:
    """Validate the file, and look for the package itself and for licences."""
    text = Path(sys.argv[1]).read_text()
    bill = json.loads(text)
    version = bill["specVersion"]
    error = JsonStrictValidator(SchemaVersion.from_version(version)).validate_str(text)
    if error is not None:
        sys.exit(f"{sys.argv[1]} is no CycloneDX {version}: {error}")
    parts = {part["name"]: part for part in bill["components"]}
    if "srr-guard" not in parts:
        sys.exit(f"{sys.argv[1]} does not list srr-guard itself: is it installed there?")
    licensed = sum("licenses" in part for part in parts.values())
    print(
        f"valid CycloneDX {version}: {len(parts)} components, {licensed} with a licence, "
        f"srr-guard {parts['srr-guard']['version']}"
    )


if __name__ == "__main__":
    main()
