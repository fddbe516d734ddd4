"""Where the numbers of a run go besides its own folder."""

import re

from recap.config.base import BaseConfig, Disagreements, Name


class MlflowConfig(BaseConfig):
    """An MLflow run that takes the configuration and every number that is logged (`pip install 'recap[mlflow]'`)."""

    experiment: Name
    """The experiment the run belongs to; made if it is not there."""
    tracking_uri: Name | None = None
    """The server, such as `http://localhost:5000`, or a folder; none given: what MLFLOW_TRACKING_URI says."""
    run_name: Name | None = None
    """The name of the run; none given: that of the folder `save_dir`."""

    def checks(self) -> tuple[Disagreements, ...]:
        """A server without the scheme by which it is known as one."""
        return (self._has_a_scheme(),)

    def _has_a_scheme(self) -> Disagreements:
        uri = self.tracking_uri
        if uri is not None and re.match(r"[\w.-]+:\d", uri):
            yield ("tracking_uri",), f"{uri!r} has no scheme; write http://{uri}"
