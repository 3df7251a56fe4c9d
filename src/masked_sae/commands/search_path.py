"""Hydra's search path: `conf/` of the working folder comes before the library's own."""

from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.plugins.search_path_plugin import SearchPathPlugin

from masked_sae.bundled import CONF

PROVIDER = "working folder"


class OwnConfigurationFirst(SearchPathPlugin):
    """For commands whose choices are those of our `conf/`. Hydra does not find this plugin by itself: other programs in
    the same environment are left as they are, and so is `masked_sae` in a notebook.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        of_program = {one.path.removeprefix("file://") for one in search_path.get_path() if one.provider == "main"}
        own = Path.cwd() / "conf"
        if of_program == {str(CONF)} and own.is_dir() and own.resolve() != CONF:
            search_path.prepend(PROVIDER, f"file://{own}", SearchPathQuery(provider="main"))
