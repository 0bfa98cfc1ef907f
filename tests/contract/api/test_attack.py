"""The harness of the attacks: it notices a wrong answer."""

from __future__ import annotations

import pytest

from tests.contract.api.attack import attack_all, look
from tests.contract.api.attack_kinds import Attack
from tests.contract.api.attacks import all_attacks
from tests.contract.api.conftest import Service

pytestmark = pytest.mark.xdist_group("api")
QUICK = {"1", "5", "16", "25-26", "27", "28-29", "30-33"}


def test_the_quick_attacks_are_answered_as_they_should_be(service: Service) -> None:
    quick = [attack for attack in all_attacks() if attack.row in QUICK]
    assert len(quick) > 60
    assert attack_all(look(service.url, "", b""), quick, None) == 0


def test_a_wrong_answer_and_a_broken_connection_are_noticed(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    def cut(target: object) -> str:
        raise ConnectionResetError

    attacks = [Attack("0", "wrong", ("422",), lambda _: "500"), Attack("0", "cut", ("422",), cut)]
    assert attack_all(look(service.url, "", b""), attacks, None) == 2
    assert capsys.readouterr().out.count("WRONG: right would be 422") == 2
