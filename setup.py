"""Build step that setup.cfg has no word for: the YAML files of ``properties`` belong into the installed package."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithProperties(build_py):
    """Copies ``properties/`` into the package, unless the install is editable: then the clone's own are read."""

    def run(self) -> None:
        """Build the package."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "recbole_vae" / "properties"
            shutil.copytree(
                "properties", target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.py", "__pycache__")
            )


setup(cmdclass={"build_py": BuildWithProperties})
