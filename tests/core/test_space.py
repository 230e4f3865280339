from coatcheck_sidecar.config import Config
from coatcheck_sidecar.core.space import data_bytes


def test_the_figure_in_the_documents() -> None:
    config = Config()
    found = data_bytes(
        journal_bytes_max=config.journal_bytes_max, spool_bytes_max=config.spool_bytes_max
    )
    assert found == 1_481_637_888
