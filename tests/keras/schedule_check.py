"""Learning rates of every schedule, step by step, against the classes of keras.optimizers.schedules.

usage: schedule_check.py SCHEDULE_DUMP

Keras computes in fp32: its rates are within a few roundings, of which a power of STEPS factors makes
the most.
"""
import subprocess
import sys

from h5_common import import_keras

keras = import_keras("k3")
import numpy as np

PEAK, PER_EPOCH, EPOCHS = 0.256, 7, 12
STEPS, WARMUP = PER_EPOCH * EPOCHS, 2 * PER_EPOCH
schedules = keras.optimizers.schedules


def ours(*settings):
    done = subprocess.run([sys.argv[1], str(PER_EPOCH), str(STEPS),
                           f"optimizer.learning_rate={PEAK}", *settings],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return np.array(done.stdout.split(), "f8")


def check(what, settings, schedule, shift=0):
    """`shift`: steps of warm-up that Keras' schedule knows nothing of."""
    rates = ours(*settings)
    theirs = np.array([float(schedule(step)) for step in range(STEPS - shift)])
    worst = np.abs(rates[shift:] - theirs).max() / PEAK
    print(f"{what}: {rates[0]:.4g} to {rates[-1]:.4g}, off by {worst:.1e}")
    assert worst < 1e-6 and len(set(rates)) > 2, (rates, theirs)


def main():
    # Keras changes after the boundary, which is the last step before.
    check("step", ["schedule.name=step", "schedule.step_epochs=3,5,10", "schedule.step_factor=0.1"],
          schedules.PiecewiseConstantDecay([3 * PER_EPOCH - 1, 5 * PER_EPOCH - 1, 10 * PER_EPOCH - 1],
                                           [PEAK, PEAK / 10, PEAK / 100, PEAK / 1000]))
    check("cosine", ["schedule.name=cosine", "schedule.end_factor=0.1"],
          schedules.CosineDecay(PEAK, STEPS, alpha=0.1))
    check("cosine with warm-up", ["schedule.name=cosine", "schedule.warmup_epochs=2",
                                  "schedule.warmup_start=0.25"],
          schedules.CosineDecay(PEAK / 4, STEPS - WARMUP, warmup_target=PEAK, warmup_steps=WARMUP))
    check("polynomial", ["schedule.name=polynomial", "schedule.power=2", "schedule.end_factor=0.05"],
          schedules.PolynomialDecay(PEAK, STEPS, end_learning_rate=0.05 * PEAK, power=2))
    for staircase in (False, True):
        settings = ["schedule.name=exponential", "schedule.decay_epochs=2.4",
                    "schedule.decay_rate=0.5", f"schedule.staircase={'yes' if staircase else 'no'}"]
        keras_schedule = schedules.ExponentialDecay(PEAK, 2.4 * PER_EPOCH, 0.5, staircase=staircase)
        check(f"exponential, staircase {staircase}", settings, keras_schedule)
        check("behind a warm-up", [*settings, "schedule.warmup_epochs=2"], keras_schedule,
              shift=WARMUP)


main()
