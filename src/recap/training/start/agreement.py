"""What the ranks of a run must agree on before they train."""

import json
from collections.abc import Mapping

from recap.config.file.load import dump_config
from recap.config.recap import RecapConfig
from recap.data.stream.batch_stream import BatchStream
from recap.distributed import Ranks


def check_agreement(
    ranks: Ranks, config: RecapConfig, streams: Mapping[str, BatchStream], teachers: Mapping[str, str], step: int
) -> None:
    """Raise InputError unless all ranks have the same configuration, data, teachers and checkpoint.

    `teachers`: task → the checksum of its teacher.
    """
    facts = {
        "the configuration": dump_config(config),
        "the data files": json.dumps({name: stream.source.contents for name, stream in streams.items()}),
        "the teachers": json.dumps(teachers),
        "the latest checkpoint": str(step),
    }
    ranks.check_equal(facts)
