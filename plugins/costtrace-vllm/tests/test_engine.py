"""The recorded subclass of a scheduler."""

from costtrace_vllm.engine_side.engine import recorded_class


class Scheduler:
    """Some class of scheduler."""


def test_the_recorded_class_has_the_name_of_its_base_and_is_made_once():
    made = recorded_class(Scheduler)
    assert made is recorded_class(Scheduler)
    assert made is recorded_class(made)
    assert (made.__module__, made.__qualname__) == (Scheduler.__module__, Scheduler.__qualname__)
    assert issubclass(made, Scheduler)
