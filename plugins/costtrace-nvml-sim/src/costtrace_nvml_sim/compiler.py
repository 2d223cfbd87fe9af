"""Compile a checked scenario: fill in presets, expand device counts, convert everything to integers."""

import time
import uuid
from decimal import Decimal
from pathlib import Path

from costtrace.sensors.nvml.binding import SIMULATED_SERIAL, SIMULATED_SUFFIX
from costtrace_nvml_sim import faults
from costtrace_nvml_sim.compiled import (
    BEFORE_ALL,
    COUNTER_MODES,
    FOREVER,
    Compiled,
    CompiledDevice,
    CompiledFault,
    CompiledFeed,
    CompiledMig,
    CompiledProcess,
)
from costtrace_nvml_sim.errors import NvmlSimError
from costtrace_nvml_sim.faults import NVML_ERRORS, FaultKind
from costtrace_nvml_sim.presets import PRESETS, Preset
from costtrace_nvml_sim.scenario import Device, Scenario
from costtrace_nvml_sim.waves import Wave, to_mw, to_ns

_NAMESPACE = uuid.UUID("51b0a7ed-5130-4c05-9d0c-c0577ace0000")
_NO_INSTANCE = 0xFFFFFFFF
_PHASE_STEP_NS = 7_919_000
"""Boards are not synchronised: device i's updates are i x 7.919 ms later, modulo the period."""


def _ms(milliseconds: float) -> int:
    return round(Decimal(str(milliseconds)) * 1_000_000)


def _uuid(scenario: Scenario, name: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, f"{scenario.name}/{name}"))


def _sensor(device: Device, preset: Preset, index: int) -> dict[str, int]:
    sensor, counter = device.sensor, device.counter
    update = _ms(sensor.update_period_ms or preset.update_period_ms)
    average = _ms(sensor.average_ms or preset.average_ms)
    counter_update = _ms(counter.update_period_ms or preset.counter_update_ms)
    usage = sensor.power_usage or preset.power_usage
    has_module = preset.module_extra_w is not None or device.module_power is not None
    average_field = preset.has_average_field if sensor.average_field is None else sensor.average_field
    phase = index * _PHASE_STEP_NS
    return {
        "update_ns": update,
        "window_ns": _ms(sensor.window_ms or preset.window_ms),
        "average_samples": max(1, round(average / update)),
        "lag_ns": _ms(sensor.lag_ms),
        "settle_ns": max((_ms(feed.settle_ms) for feed in device.feeds), default=0),
        "phase_ns": phase % update if sensor.phase_ms is None else _ms(sensor.phase_ms),
        "gain_ppm": round(Decimal(str(sensor.gain)) * 1_000_000),
        "offset_mw": to_mw(sensor.offset_w),
        "resolution_mw": sensor.resolution_mw,
        "usage_is_average": int(usage == "average"),
        "has_instant": int(sensor.instant_field),
        "has_average": int(average_field),
        "has_module": int(has_module),
        "stamp_at_update": int(sensor.field_timestamp == "update"),
        "sample_buffer": sensor.sample_buffer,
        "counter_mode": COUNTER_MODES[counter.mode or ("ideal" if preset.has_counter else "missing")],
        "counter_update_ns": counter_update,
        "counter_phase_ns": phase % counter_update if counter.phase_ms is None else _ms(counter.phase_ms),
        "counter_lag_ns": _ms(counter.lag_ms),
        "counter_resolution_mj": counter.resolution_mj,
        "counter_start_mj": counter.start_mj,
        "counter_module": int((counter.scope or preset.counter_scope) == "module"),
    }


def _identity(device: Device, preset: Preset, index: int) -> dict[str, int]:
    limit = to_mw(preset.limit_w if device.power_limit_w is None else device.power_limit_w)
    memory = device.memory_mib or preset.memory_mib
    return {
        "minor": index,
        "pci_domain": 0,
        "pci_bus": index + 1,
        "pci_device_id": preset.pci_device_id,
        "architecture": preset.architecture,
        "cc_major": preset.compute_capability[0],
        "cc_minor": preset.compute_capability[1],
        "sms": preset.sms,
        "memory_mib": memory,
        "memory_used_mib": min(device.memory_used_mib, memory),
        "memory_reserved_mib": min(512, memory // 64),
        "idle_mw": preset.idle_w * 1000,
        "limit_mw": limit,
        "default_limit_mw": preset.limit_w * 1000,
        "min_limit_mw": min(preset.min_limit_w * 1000, limit),
        "max_limit_mw": max(preset.limit_w * 1000, limit),
        "sm_clock_mhz": preset.sm_clock_mhz,
        "idle_clock_mhz": preset.sm_clock_mhz // 6,
        "mem_clock_mhz": preset.mem_clock_mhz,
        "mig_enabled": int(bool(device.mig) if device.mig_enabled is None else device.mig_enabled),
    }


def _power(device: Device, preset: Preset, base: Path) -> tuple[Wave, Wave]:
    if device.power is not None:
        gpu = device.power.wave(base)
    else:
        gpu = Wave([0], [0 if device.feeds else preset.idle_w * 1000])
    module = Wave([0], [(preset.module_extra_w or 0) * 1000])
    return gpu, module if device.module_power is None else device.module_power.wave(base)


def _feeds(device: Device, preset: Preset, index: int, files: list[Path], base: Path) -> list[CompiledFeed]:
    compiled = []
    for position, feed in enumerate(device.feeds):
        path = (base / feed.path).absolute()
        if path not in files:
            files.append(path)
        idle = preset.idle_w * 1000 if position == 0 and device.power is None else 0
        initial = idle if feed.initial_w is None else to_mw(feed.initial_w)
        compiled.append(CompiledFeed(files.index(path), index if feed.device is None else feed.device, initial))
    return compiled


def _migs(scenario: Scenario, device: Device, preset: Preset, index: int) -> list[CompiledMig]:
    return [
        CompiledMig(
            gi=position + 1 if mig.gpu_instance is None else mig.gpu_instance,
            ci=mig.compute_instance,
            slices=mig.slices,
            compute_slices=mig.compute_slices or mig.slices,
            memory_mib=mig.memory_mib,
            sms=mig.sms or max(1, preset.sms * mig.slices // 8),
            uuid=mig.uuid or "MIG-" + _uuid(scenario, f"{index}/mig/{position}"),
            profile=mig.profile,
        )
        for position, mig in enumerate(device.mig)
    ]


def _device(scenario: Scenario, device: Device, index: int, files: list[Path], base: Path) -> CompiledDevice:
    preset = PRESETS[device.preset]
    gpu, module = _power(device, preset, base)
    return CompiledDevice(
        name=device.name or preset.name,
        uuid=device.uuid or "GPU-" + _uuid(scenario, str(index)),
        serial=f"{SIMULATED_SERIAL}{index:04d}",
        part_number=SIMULATED_SERIAL,
        vbios=SIMULATED_SERIAL,
        **_identity(device, preset, index),
        **_sensor(device, preset, index),
        gpu=gpu,
        module=module,
        feeds=_feeds(device, preset, index, files, base),
        migs=_migs(scenario, device, preset, index),
        processes=[
            CompiledProcess(
                pid=process.pid,
                size_bytes=process.memory_mib * 1024 * 1024,
                gi=_NO_INSTANCE if process.gpu_instance is None else process.gpu_instance,
                ci=_NO_INSTANCE if process.gpu_instance is None else process.compute_instance,
            )
            for process in device.processes
        ],
    )


def _fault(fault: faults.Fault) -> list[CompiledFault]:
    device = -1 if fault.device == "all" else fault.device
    start = BEFORE_ALL if fault.at_s is None else to_ns(fault.at_s)
    end = FOREVER if fault.until_s is None else to_ns(fault.until_s)
    match fault:
        case faults.CallError():
            code = NVML_ERRORS[fault.code]
            return [CompiledFault(FaultKind.ERROR, device, start, end, code, fault.times, call=fault.call)]
        case faults.Latency():
            amount = round(fault.latency_ms * 1000)
            return [CompiledFault(FaultKind.LATENCY, device, start, end, amount=amount, call=fault.call)]
        case faults.GpuLost():
            return [CompiledFault(FaultKind.LOST, device, start, end)]
        case faults.Absent():
            return [CompiledFault(FaultKind.ABSENT, device, start, end)]
        case faults.CounterReset():
            return [CompiledFault(FaultKind.COUNTER_RESET, device, start, FOREVER)]
        case faults.CounterFrozen():
            lost = int(fault.afterwards == "lost")
            return [CompiledFault(FaultKind.COUNTER_FREEZE, device, start, end, code=lost)]
        case faults.DriverNotLoaded():
            return [CompiledFault(FaultKind.DRIVER_UNLOADED, -1, start, end)]
        case faults.DriverReload():
            unloaded = CompiledFault(FaultKind.DRIVER_UNLOADED, -1, start, end)
            return [unloaded, CompiledFault(FaultKind.COUNTER_RESET, -1, end, FOREVER)]
        case faults.WallClockJump():
            return [CompiledFault(FaultKind.WALL_JUMP, -1, start, end, amount=round(Decimal(str(fault.by_s)) * 10**9))]


def _latencies(scenario: Scenario) -> list[CompiledFault]:
    process_lists = CompiledFault(
        FaultKind.LATENCY,
        -1,
        BEFORE_ALL,
        FOREVER,
        amount=round(scenario.process_list_ms * 1000),
        call="nvmlDeviceGet*RunningProcesses*",
    )
    every_call = CompiledFault(FaultKind.LATENCY, -1, BEFORE_ALL, FOREVER, amount=round(scenario.call_us), call="nvml*")
    return [latency for latency in (process_lists, every_call) if latency.amount]


def compile_scenario(
    scenario: Scenario,
    *,
    base: Path,
    virtual_clock: Path | None = None,
    calls_dir: Path | None = None,
    t0_monotonic_ns: int | None = None,
) -> Compiled:
    """Compile with t0 (default: now). Paths in the scenario are relative to ``base``.

    Raises NvmlSimError where a curve cannot be read, or a virtual clock is asked for and ``virtual_clock`` is missing.
    """
    if (scenario.clock == "virtual") != (virtual_clock is not None):
        raise NvmlSimError("a scenario with `clock: virtual` needs the path of a clock file, and only such a one")
    files: list[Path] = []
    devices: list[CompiledDevice] = []
    for device in scenario.devices:
        for _ in range(device.count):
            devices.append(_device(scenario, device, len(devices), files, base))
    all_faults = [compiled for fault in scenario.faults for compiled in _fault(fault)] + _latencies(scenario)
    driver = scenario.driver_version.removesuffix(SIMULATED_SUFFIX) + SIMULATED_SUFFIX
    start = scenario.start_unix_s
    return Compiled(
        t0_monotonic_ns=time.monotonic_ns() if t0_monotonic_ns is None else t0_monotonic_ns,
        t0_unix_ns=time.time_ns() if start is None else to_ns(start),
        driver_version=driver,
        nvml_version=f"13.{driver}",
        cuda_version=scenario.cuda_version,
        virtual_clock=None if virtual_clock is None else virtual_clock.absolute(),
        calls_dir=None if calls_dir is None else calls_dir.absolute(),
        feed_files=files,
        devices=devices,
        faults=sorted(all_faults, key=lambda fault: fault.from_ns),
    )
