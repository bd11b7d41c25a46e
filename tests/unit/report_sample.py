"""A run of `make verify` as large and as awkward as a real one: for the tests of its report.

Its figures were made up for these tests and are shown nowhere else.
"""

from checks.results import Check, Fault, ModuleTitle, Plot, Results, Table

UUID = "GPU-96929019-09c9-5fca-b5f2-03251ceb639e"
# module, title -> check: what was seen. `!` fails, `?` is skipped.
MODULES = {
    ("00", "Prerequisites"): {
        "machine_offers_what_the_stack_needs": "kernel 6.1.0; memory 15.6 GiB; Docker Engine 20.10.24, cgroup v1",
        "host_driver_is_asked_for_only_where_it_is_used": "GPUs are simulated; looked for no driver",
    },
    ("01", "Cluster and GPUs"): {
        "dra_is_served": "resource.k8s.io: v1, v1beta2",
        "nodes_are_ready_and_labelled": "2 nodes ready, kubelet v1.37.2; GPUs on dra-workshop-phase1-worker",
        "driver_root_and_device_nodes_are_there": "libnvidia-ml.so.1 and device nodes below /var/lib/gpu-sim on 1 node",
        "nvidia_smi_in_the_node_lists_the_configured_gpus": f"GPU 0: NVIDIA H100 80GB HBM3 (UUID: {UUID})",
        "kubeconfig_is_for_its_owner_only": "mode 600",
    },
    ("02", "NVIDIA's DRA driver"): {
        "plugin_is_ready_on_every_gpu_node": "1 pods ready, driver v0.5.0",
        "device_classes_are_there": "gpu.nvidia.com, mig.nvidia.com, vfio.gpu.nvidia.com",
        "exactly_the_configured_gpus_are_published": "dra-workshop-phase1-worker gpu-0: NVIDIA H100 80GB HBM3",
        "stack_exports_the_gpus_that_are_published": "2 in the output `gpus`",
    },
    ("03", "Exclusive GPUs by claim"): {
        "stacks_first_workload_has_the_gpu_that_its_claim_names": f"holder-5f4ffb8fbc-6xfx4 has {UUID}",
        "stacks_second_workload_waits_with_the_schedulers_reason": (
            "0/2 nodes are available: 1 cannot allocate all claims, 1 node(s) had untolerated taint(s). "
            "still not schedulable, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
        ),
        "waiter_runs_once_the_holder_has_gone": f"waiter-78d5-x2p got {UUID} once holder-5f4ffb8fbc-6xfx4 had gone",
        "pod_sees_its_own_gpu_and_no_other": f"{UUID}, 132 SMs, /dev/nvidia0",
        "containers_of_a_pod_share_its_claim": UUID,
        "pods_that_name_one_claim_share_its_gpu": f"{UUID}, reserved for shared-a and shared-b",
        "cel_selects_by_attribute_and_capacity": "asked for Hopper with 79Gi, got NVIDIA H100 80GB HBM3",
        "claim_that_nothing_fits_says_why": "cannot allocate all claims",
        "first_of_a_prioritized_list_is_taken": f"request gpu/large: {UUID}",
        "extended_resource_becomes_a_claim": f"nvidia.com/gpu: 1 became claim extended-7xk2 with {UUID}",
        "nothing_leaks_over_many_cycles": "20 cycles; 2 allocations and 2 CDI files before and after",
    },
    ("04", "Two pods on one GPU by MPS"): {
        "both_pods_are_clients_on_one_gpu": f"clients-7b-1 and clients-7b-2 have {UUID}",
        "daemon_lists_its_clients": "2 clients of server 31 on GPU-27af2596...",
        "daemon_answers_through_its_pipe": "default active thread percentage 50",
        "daemon_and_clients_run_without_privilege": "no hostPID, hostIPC or hostNetwork, every capability dropped",
        "privileged_pods_are_those_that_are_listed": "9 kinds of pods; privileged: kube-proxy, kubelet-plugin",
        "client_without_the_pipe_runs_without_mps": "all 132 SMs, no limit, and no error: <b>that is the danger</b>",
        "second_daemon_is_kept_away": "mps-daemon: another daemon serves /run/nvidia-mps",
        "killed_daemon_comes_back_over_its_stale_pipe": (
            "clients got CUDA_ERROR_MPS_RPC_FAILURE and started again; mps-daemon-dtxxt is mps-daemon-skzr5 now"
        ),
        "time_slicing_gives_each_pod_all_multiprocessors_in_turns": f"?mps.mode is daemon: {UUID} is shared by MPS",
    },
    ("05", "Limits of MPS, and who wins"): {
        "clients_have_the_limits_of_their_class": "clients 66 SMs, 7921 MiB; limited 26 SMs, 1925 MiB",
        "memory_beyond_the_limit_is_refused": "under 0=2G: 100Mi ok, 3000Mi CUDA_ERROR_OUT_OF_MEMORY",
        "daemons_memory_limit_holds_for_a_client_that_sets_none": "under 8192 MiB: 100Mi ok, 8192Mi refused",
        "throttle_curve_grants_exactly_what_the_rule_says": "100 %: 132 SMs, 50 %: 66 SMs, 20 %: 26 SMs, 1 %: 8 SMs",
        "three_clients_at_20_percent_run_together": "26 SMs each at 20 %, 3 clients listed",
        "changed_limit_reaches_new_clients_at_once": (
            "!AssertionError: a new pod has 66 SMs 61.2 s after the change, and 38 were to be granted\n"
            "assert 66 == 38\n"
            " +  where 66 = Ended(code=0, lines=[{'simulated': True, 'gpus': 1}, {'sms': 66, 'free_mib': 7921}]).sms"
        ),
        "program_may_set_its_own_memory_limit": "daemon 2 GiB, the program sets 0=8G: 7921 MiB free",
        "partitioning_switch_is_what_lifts_a_percentage": "132 SMs under 50 %",
        "flops_needs_a_real_gpu": "gpu-probe flops: needs a real GPU",
        "real_gpus_speed_follows_the_granted_share": "?needs a real GPU: a simulated one has no speed",
        "policy_refuses_more_than_the_class": "thread percentage 80 is above 50, the most of class default",
        "policy_refuses_what_reaches_around_the_pipe": "hostPath /etc, hostPID, hostIPC and hostNetwork are refused",
        "policy_passes_what_is_within_the_class": "no variables, 50 %, 12.5 % with 1M, and 8192M pass",
    },
    ("07", "Consumable capacity"): {
        "independent_claims_share_one_gpu_by_memory": f"10Gi, 20Gi and 40Gi on {UUID}",
        "claim_that_does_not_fit_waits": "30Gi: cannot allocate all claims",
        "freed_capacity_is_used_again": "30Gi runs 3.2 s after 40Gi had gone",
        "limit_enforces_what_the_scheduler_counts": "12000 MiB under 10Gi: CUDA_ERROR_OUT_OF_MEMORY",
        "request_rounds_up_to_the_step": "1 byte is 1Mi",
    },
    ("09", "Resilience"): {
        "killed_plugin_leaves_pods_running": "2 pods run on with the same UIDs",
        "killed_mps_daemon_costs_its_clients_their_contexts": "CUDA_ERROR_MPS_RPC_FAILURE, then a new context",
        "killed_kubelet_is_back": "kubelet active again, no pod restarted",
        "restarted_containerd_keeps_containers": "the same container ids before and after",
        "restarted_node_has_its_pods_back": "3 of 3 pods run after `docker restart`",
        "lost_checkpoint_blocks_no_new_claim": "a new claim was prepared; 1 CDI file was left behind",
        "xid_taints_the_gpu": "gpu.nvidia.com/xid=79:NoSchedule on gpu-1",
        "taint_outlives_the_plugin": "DeviceTaintRule xid-dra-workshop-phase1-worker-gpu-1",
        "evicting_taint_moves_the_pod": "checks-a is gone, checks-b runs on gpu-0",
        "scheduler_that_is_gone_holds_new_pods_only": "Pending until it was back; running ones untouched",
        "api_server_that_is_gone_stops_no_pod": "2 pods kept their heartbeat meanwhile",
    },
}
FAULTS = (
    ("kubelet plugin of NVIDIA's driver killed", "kubelet, by the closed socket", "nothing that runs", 4.1, "nothing"),
    ("MPS daemon killed", "its clients, at the next call", "their contexts", 2.84, "what they had on the GPU"),
    ("MPS server killed", "its clients, at once", "their contexts", 1.2, "what they had on the GPU"),
    ("kubelet killed", "nobody; systemd started it", "nothing", 6.75, "nothing"),
    ("containerd restarted", "kubelet", "`kubectl exec` sessions", 8.0, "open sessions"),
    ("node restarted", "node controller, after 40 s", "every pod on it", 126.4, "all that pods had in memory"),
    ("driver's checkpoint deleted", "nobody", "unprepare of older claims", 18.6, "1 CDI file was left"),
    ("XID 79 on a GPU that is in use", "driver, taint after 0.8 s", "new claims on this GPU", 3.3, "the GPU"),
    ("taint rule NoExecute", "device taint controller", "the pod on this GPU", 3.9, "the pod's work"),
    ("scheduler stopped", "nobody", "new pods wait", 12.2, "nothing"),
    ("API server stopped", "every client of it", "no change can be made", 21.0, "nothing"),
    ("claim <template> & | `claim` deleted under a running pod", "API server, by its finalizer", "nothing", 0.4, "-"),
)


def sample(simulated: bool = True, failing: bool = True) -> Results:
    """The run; without its failing check if not `failing`."""
    checks = []
    for (module, _), found in MODULES.items():
        for number, (name, seen) in enumerate(found.items()):
            failed = seen.startswith("!") and failing
            checks.append(
                Check(
                    module=module,
                    name=f"test_{name}",
                    result="failed" if failed else "skipped" if seen.startswith("?") else "passed",
                    seen=seen.lstrip("!?"),
                    seconds=61.2 if failed else 0.04 + 1.37 * number,
                )
            )
    granted = ((1, 8), (5, 8), (10, 12), (20, 26), (30, 38), (50, 66), (75, 98), (100, 132))
    return Results(
        stack="phase1",
        cluster="dra-workshop-phase1",
        simulated=simulated,
        finished="2026-11-25T15:06:31Z",
        seconds=402.7,
        complete=True,
        kubernetes="v1.37.2",
        containerRuntimes=("containerd://2.4.2",),
        driverVersion="0.5.0",
        substitutions=(
            "go-nvfm v0.1.0 is a stub (the gate FabricManagerPartitioning cannot work)",
            "k8s.io/kubernetes v1.37.0-rc.0 is v1.37.2 (its checkpointmanager is used)",
        ),
        gpus=tuple(
            f"dra-workshop-phase1-worker gpu-{n}: NVIDIA H100 80GB HBM3, 81559Mi, {UUID[:-1]}{n} (simulated)"
            for n in (0, 1)
        ),
        modules=tuple(ModuleTitle(number=number, title=title) for number, title in MODULES),
        notChecked=("08",),
        checks=tuple(checks),
        tables=(
            Table(
                module="05",
                check="test_daemons_memory_limit_holds_for_a_client_that_sets_none",
                title="Memory that a client can allocate",
                columns=("limit", "SMs granted", "context in MiB", "left in MiB", "100Mi", "beyond"),
                rows=(
                    ("1G", 132, 513.0, 510.9, "ok", "CUDA_ERROR_OUT_OF_MEMORY"),
                    ("8G", 66, 271.0, 7921.0, "ok", "-"),
                ),
            ),
            Table(
                module="07",
                check="test_independent_claims_share_one_gpu_by_memory",
                title="Consumed capacity of one GPU",
                columns=("claim", "asked", "consumed", "MiB", "share"),
                rows=tuple((f"memory-{n}", f"{n}Gi", f"{n}Gi", 1024 * n, UUID[4:12]) for n in (10, 20, 40)),
            ),
        ),
        plots=(
            Plot(
                module="05",
                check="test_throttle_curve_grants_exactly_what_the_rule_says",
                title="Multiprocessors granted for a thread percentage",
                x="CUDA_MPS_ACTIVE_THREAD_PERCENTAGE in %",
                y="SMs granted",
                series={"H100 80GB": granted, "A100 40GB": tuple((p, round(sms * 108 / 132)) for p, sms in granted)},
            ),
            Plot(
                module="07",
                check="test_freed_capacity_is_used_again",
                title="Memory of one GPU that is promised to claims",
                x="time in s",
                y="Gi promised",
                series={"promised": ((0, 0), (1.1, 10), (2.0, 30), (2.9, 70), (9.4, 30), (12.6, 60))},
            ),
            Plot(
                module="09",
                check="test_restarted_node_has_its_pods_back",
                title="Pods that run after their node restarted",
                x="time since the restart in s",
                y="pods that run",
                series={
                    f"pod <{name}> & $x_1$": tuple((second, int(second >= start)) for second in range(0, 131, 10))
                    for name, start in (("holder", 58), ("client", 71), ("limited", 126))
                },
            ),
        ),
        faults=tuple(
            Fault(module="09", check=check, fault=fault, noticed=noticed, broke=broke, seconds=seconds, lost=lost)
            for (fault, noticed, broke, seconds, lost), check in zip(
                FAULTS, [f"test_{name}" for name in (*MODULES["09", "Resilience"], "xid_taints_the_gpu")], strict=True
            )
        ),
    )
