import pytest

from mirl_jax.rollout.program import (
  Keep,
  Sample,
  complete_trajectories,
  from_config,
  sampled_slots,
  samples,
  validate,
)


def sample(name="describe", fanout=4, **changes):
  return Sample(name, fanout, **{"max_tokens": 8, "stop": "</d>", **changes})


REASON = sample("reason", 2)
BAD = {
  "the first stage must be a Sample": [(), (Keep(1),)],
  "a Keep must follow a Sample": [(sample(), Keep(2), Keep(1), REASON)],
  "the last stage must be a Sample": [(sample(), Keep(2))],
  "unknown Keep rule 'lkelihood'; did you mean 'likelihood'": [
    (sample(), Keep(2, "lkelihood"), REASON)
  ],
  r"Keep k=5 must lie in 1\.\.4": [(sample(), Keep(5), REASON)],
  r"Keep k=0 must lie in 1\.\.4": [(sample(), Keep(0), REASON)],
  r"Keep k=5 must lie in 1\.\.4, the nodes alive": [
    (sample(), Keep(2), REASON, Keep(5), sample("answer"))
  ],
  "two stages are named 'describe'": [(sample(), sample())],
  "describe: fanout and max_tokens": [
    (sample(fanout=0),),
    (sample(max_tokens=0),),
  ],
  "describe: stop must not be empty": [(sample(stop=""),)],
  "describe: temperature >= 0": [
    (sample(temperature=-1.0),),
    (sample(top_p=0.0),),
    (sample(top_p=1.1),),
    (sample(top_k=-1),),
  ],
}
TRAINING_ONLY = {
  "top_p and top_k are for evaluation": [
    (sample(top_p=0.9),),
    (sample(top_k=5),),
  ],
  "greedy sampling cannot be trained on": [(sample(temperature=0.0),)],
}


def cases(table):
  return [(m, p) for m, programs in table.items() for p in programs]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("message", "program"), cases(BAD))
def test_bad_programs_are_refused_by_name(message, program, training):
  with pytest.raises(ValueError, match=message):
    validate(program, training)


@pytest.mark.parametrize(("message", "program"), cases(TRAINING_ONLY))
def test_only_training_refuses_what_it_cannot_score(message, program):
  assert validate(program, training=False) == program
  with pytest.raises(ValueError, match=message):
    validate(program, training=True)


@pytest.mark.parametrize(
  ("program", "leaves"),
  [
    ((sample(fanout=16),), 16),
    ((sample(fanout=10), Keep(6), REASON), 12),
    ((sample(fanout=3), Keep(0, "all"), REASON), 6),
    ((sample(), REASON), 8),
    ((sample(), Keep(4), REASON, Keep(3, "random"), sample("answer", 5)), 15),
  ],
)
def test_good_programs_pass_and_count_their_leaves(program, leaves):
  assert validate(program, training=True) is program
  assert complete_trajectories(program) == leaves
  assert all(isinstance(stage, Sample) for stage in samples(program))
  assert len(samples(program)) == sum(not hasattr(s, "by") for s in program)


def test_from_config_reads_stages_in_order():
  program = from_config(
    {
      "describe": {
        "fanout": 10,
        "max_tokens": 9,
        "stop": "</description>",
        "temperature": 0.7,
      },
      "keep": {"k": 6, "by": "stratified"},
      "reason": {"fanout": 2, "max_tokens": 5, "stop": "</a>", "top_k": 3},
    }
  )
  assert program == (
    Sample("describe", 10, 9, "</description>", 0.7),
    Keep(6, "stratified"),
    Sample("reason", 2, 5, "</a>", top_k=3),
  )


def test_sampled_slots_are_those_of_every_node():
  two = (Sample("a", 10, 9, "x"), Keep(6), Sample("b", 2, 5, "y"))
  assert sampled_slots(two) == 10 * 9 + 6 * 2 * 5
  assert sampled_slots((two[0], Keep(1, "all"), two[2])) == 90 + 100
  assert sampled_slots(two[:1]) == 90


@pytest.mark.parametrize(
  ("stages", "message"),
  [
    ({"describe": {"fan_out": 2}}, "describe.fan_out .* mean 'fanout'"),
    ({"keep": {"by": "mi", "kk": 2}}, "keep.kk is unknown; did you mean 'k'"),
    ({"describe": {"fanout": 2}}, "describe lacks 'max_tokens'"),
    ({"keep": {"by": "mi"}}, "keep lacks 'k'"),
  ],
)
def test_from_config_names_the_field(stages, message):
  with pytest.raises(ValueError, match=message):
    from_config(stages)
