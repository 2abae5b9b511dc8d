"""Options of `pytest benchmarks/`, and what its JSON notes about the machine."""

import measure


def pytest_addoption(parser):
    parser.getgroup("csoftmax").addoption(
        "--threads", type=int, default=1, help="threads (and CPUs) for every contender"
    )


def pytest_configure(config):
    measure.pin(config.getoption("--threads"))


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info.update(measure.machine_info(machine_info))
