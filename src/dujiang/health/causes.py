"""The closed list of causes: what each means, whose doing it usually is, and what to do when a signature says no more.

A signature may blame differently (a full disk of the node is infrastructure, of the user's own quota it is not); the
cause itself is never invented at run time, so clients can count on the list.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from dujiang.jobs.diagnosis import Blame


class Cause(StrEnum):
    """Why an attempt ended."""

    SUCCEEDED = "Succeeded"
    CANCELLED = "Cancelled"
    PREEMPTED = "Preempted"
    STOPPED_BY_PLATFORM = "StoppedByPlatform"
    TIME_LIMIT = "TimeLimit"
    HOST_OUT_OF_MEMORY = "HostOutOfMemory"
    GPU_OUT_OF_MEMORY = "GpuOutOfMemory"
    KILLED_FROM_OUTSIDE = "KilledFromOutside"
    SUPERVISOR_LOST = "SupervisorLost"
    NODE_LOST = "NodeLost"
    NODE_NOT_READY = "NodeNotReady"
    LAUNCH_FAILED = "LaunchFailed"
    REFUSED = "Refused"
    NODE_REFUSED = "NodeRefused"
    SETUP_FAILED = "SetupFailed"
    COMMAND_NOT_FOUND = "CommandNotFound"
    COMMAND_NOT_EXECUTABLE = "CommandNotExecutable"
    SEGMENTATION_FAULT = "SegmentationFault"
    BUS_ERROR = "BusError"
    ILLEGAL_INSTRUCTION = "IllegalInstruction"
    ABORTED = "Aborted"
    SIGNALED = "Signaled"
    FILE_TOO_LARGE = "FileTooLarge"
    USER_CODE_ERROR = "UserCodeError"
    BAD_ARGUMENTS = "BadArguments"
    SHAPE_OR_DTYPE_MISMATCH = "ShapeOrDtypeMismatch"
    NAN_OR_DIVERGENCE = "NanOrDivergence"
    DEPENDENCY_MISSING = "DependencyMissing"
    IMPORT_FAILED = "ImportFailed"
    FILE_MISSING = "FileMissing"
    DATA_CORRUPT = "DataCorrupt"
    CHECKPOINT_INCOMPATIBLE = "CheckpointIncompatible"
    CHECKPOINT_CORRUPT = "CheckpointCorrupt"
    CHECKPOINT_WRITE_FAILED = "CheckpointWriteFailed"
    PERMISSION_DENIED = "PermissionDenied"
    AUTH_FAILED = "AuthFailed"
    LICENCE_UNAVAILABLE = "LicenceUnavailable"
    CUDA_LIBRARY_FAILED = "CudaLibraryFailed"
    CUDA_VERSION_MISMATCH = "CudaVersionMismatch"
    DRIVER_MISMATCH = "DriverMismatch"
    GPU_NOT_VISIBLE = "GpuNotVisible"
    ILLEGAL_MEMORY_ACCESS = "IllegalMemoryAccess"
    GPU_ECC_ERROR = "GpuEccError"
    GPU_FELL_OFF_BUS = "GpuFellOffBus"
    GPU_THERMAL_OR_POWER = "GpuThermalOrPower"
    GPU_FAULT = "GpuFault"
    NVLINK_FAULT = "NvlinkFault"
    AMD_GPU_FAULT = "AmdGpuFault"
    NPU_FAULT = "NpuFault"
    HARDWARE_FAULT = "HardwareFault"
    KERNEL_FAULT = "KernelFault"
    NCCL_CONFIGURATION = "NcclConfiguration"
    NCCL_NETWORK = "NcclNetwork"
    NCCL_TIMEOUT = "NcclTimeout"
    PEER_DIED = "PeerDied"
    RENDEZVOUS_FAILED = "RendezvousFailed"
    MPI_LAUNCH_FAILED = "MpiLaunchFailed"
    DISK_FULL = "DiskFull"
    QUOTA_EXCEEDED = "QuotaExceeded"
    SHARED_MEMORY_EXHAUSTED = "SharedMemoryExhausted"
    STORAGE_FAULT = "StorageFault"
    NETWORK_FAULT = "NetworkFault"
    TLS_FAILED = "TlsFailed"
    PORT_IN_USE = "PortInUse"
    RESOURCE_LIMIT = "ResourceLimit"
    IMAGE_UNAVAILABLE = "ImageUnavailable"
    CONTAINER_RUNTIME = "ContainerRuntime"
    UNSCHEDULABLE = "Unschedulable"
    SCHEDULER_CONFIGURATION = "SchedulerConfiguration"
    SCHEDULER_UNREACHABLE = "SchedulerUnreachable"
    SERVICE_OVERLOADED = "ServiceOverloaded"
    UNKNOWN = "Unknown"


@dataclass(frozen=True, slots=True)
class About:
    """What a cause means when nothing says more."""

    blame: Blame
    sentence: str
    advice: str
    scope: str = "job"
    retryable: bool | None = None
    """None follows the blame: infrastructure and platform yes, user no, unknown by policy."""


_I, _P, _U, _X = Blame.INFRASTRUCTURE, Blame.PLATFORM, Blame.USER, Blame.UNKNOWN

ABOUT: Mapping[Cause, About] = {
    Cause.SUCCEEDED: About(_X, "The program ended by itself and reported success.", "", retryable=False),
    Cause.CANCELLED: About(_U, "Someone asked the platform to stop it.", "Submit it again to run it.", retryable=False),
    Cause.PREEMPTED: About(
        _P, "The platform took its resources for more important work.", "Nothing to do: it is queued again.", "platform"
    ),
    Cause.STOPPED_BY_PLATFORM: About(
        _P, "The platform stopped it.", "Nothing to do: it may run again elsewhere.", "platform"
    ),
    Cause.TIME_LIMIT: About(
        _U, "It was still running at its time limit and was stopped.",
        "Raise time_limit, or save checkpoints and resume so that the work is done in several runs.",
    ),
    Cause.HOST_OUT_OF_MEMORY: About(
        _U, "It needed more main memory than it was given, and the kernel killed it.",
        "Ask for more memory, or use less: smaller batches, fewer data loader workers, data read in pieces.",
    ),
    Cause.GPU_OUT_OF_MEMORY: About(
        _U, "The program asked for more memory on the device than is left there.",
        "Use a smaller batch or shorter sequences, gradient accumulation or checkpointing, or ask for a larger device.",
    ),
    Cause.KILLED_FROM_OUTSIDE: About(
        _I, "Something outside the program killed it; the platform did not, and no memory limit was reached.",
        "Nothing in the program: it is run again. If it repeats, see who may signal processes on that node.", "node",
    ),
    Cause.SUPERVISOR_LOST: About(
        _I, "What watched over it is gone without a trace of its end: the machine restarted, or the supervisor was"
        " killed.", "Nothing to do in the program; the operator may look at the node.", "node",
    ),
    Cause.NODE_LOST: About(
        _I, "Its node went away while it ran.", "Nothing to do in the program; the operator looks at the node.", "node"
    ),
    Cause.NODE_NOT_READY: About(
        _I, "Its node stopped being fit for work.", "The operator looks at the node; the work can run elsewhere.",
        "node",
    ),
    Cause.LAUNCH_FAILED: About(
        _P, "The engine could not start it.", "Read the engine's own words in the evidence; if they name something of"
        " the specification (folder, shell), correct it there.", "platform",
    ),
    Cause.REFUSED: About(
        _U, "Its cluster does not take it.", "Change in the job what the cluster names and submit it again, or choose"
        " another cluster (`placement.cluster`); what the cluster lacks, its operators can give it.",
    ),
    Cause.NODE_REFUSED: About(
        _P, "Its place was closed or gone when it was to start there.",
        "Nothing to do: it is planned anew on what is open now.", "platform",
    ),
    Cause.SETUP_FAILED: About(
        _U, "A setup command failed, so the program was never started.",
        "Run the setup commands one by one in the same environment and correct the one that fails.",
    ),
    Cause.COMMAND_NOT_FOUND: About(
        _U, "The shell does not know a command or file that it was told to run.",
        "Check the spelling, install the program in setup, or give its full path.",
    ),
    Cause.COMMAND_NOT_EXECUTABLE: About(
        _U, "A file exists but cannot be run.",
        "Make it executable (chmod +x), give it a right first line, and build it for this kind of machine.",
    ),
    Cause.SEGMENTATION_FAULT: About(
        _U, "Native code of the program touched memory that is not its own.",
        "Run with PYTHONFAULTHANDLER=1 to see where; compare the versions of compiled packages.",
    ),
    Cause.BUS_ERROR: About(
        _X, "The program touched memory that could not be supplied: often shared memory or a file that is full or"
        " was cut, sometimes bad hardware.",
        "See whether /dev/shm or the disk was full; use fewer data loader workers.",
    ),
    Cause.ILLEGAL_INSTRUCTION: About(
        _U, "The program holds instructions that this processor does not know.",
        "Install packages built for this processor, or choose nodes by label.",
    ),
    Cause.ABORTED: About(
        _U, "The program gave up by itself (abort).", "Read the last lines before the abort: a library usually says why"
    ),
    Cause.SIGNALED: About(_X, "A signal ended the program.", "Find out who sends that signal."),
    Cause.FILE_TOO_LARGE: About(
        _U, "It wrote a file larger than allowed.", "Write several files, or ask for a larger file size limit."
    ),
    Cause.USER_CODE_ERROR: About(
        _U, "The program stopped with an error of its own.",
        "Correct the line that the evidence names and submit again.", "user-code",
    ),
    Cause.BAD_ARGUMENTS: About(
        _U, "The program does not accept the arguments or settings it was given.",
        "Compare the command with the program's own help.", "user-code",
    ),
    Cause.SHAPE_OR_DTYPE_MISMATCH: About(
        _U, "Tensors of unlike shape or type met in one operation.",
        "Print the shapes and types just before the line that the evidence names.", "user-code",
    ),
    Cause.NAN_OR_DIVERGENCE: About(
        _U, "The numbers of the training became infinite or undefined.",
        "Lower the learning rate, clip gradients, look at the data of that step, or resume from an earlier checkpoint.",
        "user-code",
    ),
    Cause.DEPENDENCY_MISSING: About(
        _U, "A package that the program needs is not installed, or cannot be installed as asked.",
        "Install it in setup, with the version pinned.",
    ),
    Cause.IMPORT_FAILED: About(
        _U, "A package is there but cannot be loaded: versions do not fit, or a shared library is missing.",
        "Install versions that belong together; rebuild compiled packages against what is installed.",
    ),
    Cause.FILE_MISSING: About(
        _U, "A file or data set that the program needs is not there.",
        "Check the path as the job sees it (its workdir, its mounts) and that the data exist.",
    ),
    Cause.DATA_CORRUPT: About(
        _U, "The data cannot be read: damaged or not in the expected form.",
        "Check the file's size and digest against its source, and fetch or write it again.",
    ),
    Cause.CHECKPOINT_INCOMPATIBLE: About(
        _U, "The checkpoint does not fit the model.",
        "Load it with the model definition that wrote it, or start without it.", "user-code",
    ),
    Cause.CHECKPOINT_CORRUPT: About(
        _U, "The checkpoint is damaged or was not written to its end.",
        "Resume from the one before; write to a temporary name and rename when complete.", "storage",
    ),
    Cause.CHECKPOINT_WRITE_FAILED: About(
        _P, "A checkpoint could not be written.", "See that the target has room and is reachable, then run again.",
        "storage",
    ),
    Cause.PERMISSION_DENIED: About(
        _U, "The program may not read or write something it needs.",
        "Check owner and mode of that path, or choose another one.",
    ),
    Cause.AUTH_FAILED: About(
        _U, "A service refused the credentials of the job.",
        "Give a valid token as a secret of the job, and accept the terms where a model asks for it.",
    ),
    Cause.LICENCE_UNAVAILABLE: About(
        _P, "No licence was to be had for a program that needs one.",
        "Try again when one is free, or ask for more seats.", "platform",
    ),
    Cause.CUDA_LIBRARY_FAILED: About(
        _U, "A CUDA library could not start on the device, most often because its memory was already taken.",
        "Use a smaller batch, do not let one framework reserve the whole device, and match the library versions.",
    ),
    Cause.CUDA_VERSION_MISMATCH: About(
        _U, "The program was built for another CUDA version or another generation of device.",
        "Install the build that fits the device and the driver.",
    ),
    Cause.DRIVER_MISMATCH: About(
        _P, "The device driver of the node does not fit what the program or its libraries need.",
        "The operator brings driver and libraries of the node to one version; or use a build for an older driver.",
        "node",
    ),
    Cause.GPU_NOT_VISIBLE: About(
        _X, "The program finds no device it can use.",
        "See that the job asked for one; if it did, the operator checks driver and device of the node.", "node",
    ),
    Cause.ILLEGAL_MEMORY_ACCESS: About(
        _U, "A kernel on the device touched memory that is not its own.",
        "Run once with CUDA_LAUNCH_BLOCKING=1 or compute-sanitizer to find the kernel.", "user-code",
    ),
    Cause.GPU_ECC_ERROR: About(
        _I, "The memory of a device failed in a way that could not be corrected.",
        "The node is taken out and the device reset or replaced; the work resumes elsewhere.", "gpu",
    ),
    Cause.GPU_FELL_OFF_BUS: About(
        _I, "A device stopped answering on the PCIe bus.",
        "The node is taken out; power, seating and the device itself are checked.", "gpu",
    ),
    Cause.GPU_THERMAL_OR_POWER: About(
        _I, "A device became too hot or was not given enough power.", "Cooling and power of the node are checked.",
        "gpu",
    ),
    Cause.GPU_FAULT: About(
        _I, "The driver reported a fault of the device.", "The device is reset; if it repeats, replaced.", "gpu"
    ),
    Cause.NVLINK_FAULT: About(
        _I, "A link between devices, or the switch between them, failed.",
        "The node is taken out; fabric manager, links and switches are checked.", "gpu",
    ),
    Cause.AMD_GPU_FAULT: About(
        _I, "The AMD driver reported a fault of the device.", "The device is reset; if it repeats, replaced.", "gpu"
    ),
    Cause.NPU_FAULT: About(
        _I, "The NPU or its runtime reported a fault of the device.", "The device is reset; if it repeats, replaced.",
        "gpu",
    ),
    Cause.HARDWARE_FAULT: About(
        _I, "The hardware of the node reported an error.", "The node is taken out and checked.", "node"
    ),
    Cause.KERNEL_FAULT: About(
        _I, "The operating system of the node failed or hung.", "The node is taken out and restarted.", "node"
    ),
    Cause.NCCL_CONFIGURATION: About(
        _U, "The collective library was set up in a way that cannot work.",
        "Check which device each rank takes (LOCAL_RANK) and that all ranks have the same versions.",
    ),
    Cause.NCCL_NETWORK: About(
        _I, "The network between the ranks failed.", "The operator checks links and adapters of the named nodes.",
        "network",
    ),
    Cause.NCCL_TIMEOUT: About(
        _I, "A collective operation did not finish in time: at least one rank never arrived.",
        "Find the rank that stopped first; the output of the others only waits.",
    ),
    Cause.PEER_DIED: About(
        _X, "This rank stopped because another one had gone.", "Diagnose the rank that went first.",
    ),
    Cause.RENDEZVOUS_FAILED: About(
        _I, "The ranks did not find one another in time.",
        "See that all ranks started, and that the address and port are reachable between the nodes.", "network",
    ),
    Cause.MPI_LAUNCH_FAILED: About(
        _P, "MPI could not start or connect its processes.",
        "Check the MPI installation and how it is started (srun --mpi, PMIx, host file).", "platform",
    ),
    Cause.DISK_FULL: About(
        _I, "A disk is full.", "Free space or write elsewhere; the operator looks at the node.", "storage"
    ),
    Cause.QUOTA_EXCEEDED: About(
        _U, "The storage quota of the user or project is used up.", "Delete what is not needed, or ask for more.",
        "storage",
    ),
    Cause.SHARED_MEMORY_EXHAUSTED: About(
        _P, "Shared memory (/dev/shm) ran out.",
        "Use fewer data loader workers, or let the container have a larger /dev/shm.", "node",
    ),
    Cause.STORAGE_FAULT: About(
        _I, "The storage failed under the program.", "The operator checks disks, file system and storage network.",
        "storage",
    ),
    Cause.NETWORK_FAULT: About(
        _P, "A network address could not be resolved or reached.",
        "Check the name, and whether jobs may reach it from here (proxy, mirror); then run again.", "network",
    ),
    Cause.TLS_FAILED: About(
        _P, "A secure connection could not be made: the certificate is not trusted, wrong or expired.",
        "Install the right certificate authority, or correct the clock or the address.", "network",
    ),
    Cause.PORT_IN_USE: About(
        _U, "A port that the program wants is taken.",
        "Take the ports the platform hands out (PORT, MASTER_PORT) instead of a fixed one.",
    ),
    Cause.RESOURCE_LIMIT: About(
        _U, "A limit on processes, threads or open files was reached.",
        "Use fewer workers, close files, or ask for higher limits.",
    ),
    Cause.IMAGE_UNAVAILABLE: About(
        _U, "The container image could not be fetched.",
        "Check name, tag and credentials of the image.", "platform",
    ),
    Cause.CONTAINER_RUNTIME: About(
        _P, "The container runtime of the node could not start the container, or not with a device.",
        "The operator checks runtime and device toolkit of the node.", "node",
    ),
    Cause.UNSCHEDULABLE: About(
        _P, "No node can take it as it is asked for.", "Ask for less, or wait until there is room.", "platform"
    ),
    Cause.SCHEDULER_CONFIGURATION: About(
        _P, "The scheduler is set up wrongly, or cannot do what is asked.",
        "The operator corrects the scheduler's configuration.", "platform",
    ),
    Cause.SCHEDULER_UNREACHABLE: About(
        _I, "The scheduler could not be reached, or a node of it failed.",
        "The operator checks the controller and the node.", "platform",
    ),
    Cause.SERVICE_OVERLOADED: About(
        _P, "A service did not answer in time or refused more work.", "Add capacity, or send less at once.",
    ),
    Cause.UNKNOWN: About(
        _X, "Nothing that was seen says why it failed.",
        "Read the end of its output; printing the error before leaving would let the platform say more.",
    ),
}  # fmt: skip


def retryable(cause: Cause, blame: Blame) -> bool | None:
    """Say whether the same work may succeed when run again; None when nothing is known."""
    fixed = ABOUT[cause].retryable
    if fixed is not None or blame is Blame.UNKNOWN:
        return fixed
    return blame in (Blame.INFRASTRUCTURE, Blame.PLATFORM)
