"""`recap data serve`."""

from typing import Annotated

import typer

from recap.cli.options import ConfigFile, Overrides, SetFiles


def serve(
    config: ConfigFile,
    overrides: Overrides = None,
    set_files: SetFiles = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 chooses a free one.")] = 5005,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 accepts any host, with a token, mTLS, or --insecure.")
    ] = "127.0.0.1",
    token_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="File with a token of at least 16 characters, which clients need.", show_default=False
        ),
    ] = None,
    certificate: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="PEM file of the server's certificate chain; with --private-key, connections are encrypted.",
            show_default=False,
        ),
    ] = None,
    private_key: Annotated[
        str | None, typer.Option(metavar="FILE", help="PEM file of the key of --certificate.", show_default=False)
    ] = None,
    client_ca: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="PEM file of the authority that signs the certificates which clients need: mTLS.",
            show_default=False,
        ),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen on an address that is not loopback without token or mTLS.")
    ] = False,
    max_requests: Annotated[
        int, typer.Option(min=1, help="Requests in work; each holds a row group in memory. More clients wait.")
    ] = 16,
) -> None:
    """Read data for trainers on other hosts.

    The trainers set `readers: {kind: service}`. SIGTERM or Ctrl-C finishes requests in work; a second one stops the
    server at once.
    """
    from recap.cli.terminal.data_server import serve_data
    from recap.config.file.load import load_config
    from recap.data.remote.access import Access

    access = Access(host, port, token_file, certificate, private_key, client_ca, insecure)
    access.settings(print)  # refuses options and their files before torch and the data, which take long
    serve_data(load_config(config, overrides or [], set_files or []), config, access, max_requests)
