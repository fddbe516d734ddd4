"""Where the numbers of a run go besides its own folder."""

from recap.config.base import BaseConfig, Name


class MlflowConfig(BaseConfig):
    """An MLflow run that takes the configuration and every number that is logged (`pip install 'recap[mlflow]'`)."""

    experiment: Name
    """The experiment the run belongs to; made if it is not there."""
    tracking_uri: Name | None = None
    """The server, such as `http://localhost:5000`, or a folder; none given: what MLFLOW_TRACKING_URI says."""
    run_name: Name | None = None
    """The name of the run; none given: that of the folder `save_dir`."""
