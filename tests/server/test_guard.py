"""Who gets past the guard: only what is named, only from whom is named."""

import base64

from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER

from manikin.server.guard import FLEET_PATHS, Guard


def test_only_nodes_of_the_study_may_call():
    header, path = FLEET_HTTP_PUBLIC_KEY_HEADER.lower().encode(), "/v1/fleet/pull-messages"
    key = base64.b64encode(b"enrolled")
    assert Guard(None, FLEET_PATHS, [])._refusal(path, []) == 401
    assert Guard(None, FLEET_PATHS, [])._refusal(path, [(header, key)]) == 401
    guard = Guard(None, FLEET_PATHS, [b"enrolled"])
    assert guard._refusal(path, [(header, key)]) is None
    assert guard._refusal(path, [(header, key + b"=")]) == 401
    assert guard._refusal("/v1/control/start-run", [(header, key)]) == 404


def test_a_header_that_is_given_twice_is_refused_whatever_its_order():
    header, path = FLEET_HTTP_PUBLIC_KEY_HEADER.lower().encode(), "/v1/fleet/pull-messages"
    guard = Guard(None, FLEET_PATHS, [b"enrolled"])
    good, bad = ((header, base64.b64encode(key)) for key in (b"enrolled", b"revoked"))
    for pair in ([bad, good], [good, bad], [good, good], [(header.upper(), bad[1]), good]):
        assert guard._refusal(path, pair) == 401
    assert guard._refusal(path, [good, (b"content-length", b"5")]) is None
    assert guard._refusal(path, [good, (b"content-length", b"5"), (b"content-length", b"6")]) == 400
