/* This process as a client of an MPS server. */
#include "cuda_private.h"

#include "mps_socket.h"
#include "mps_values.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int connection = -1;
static bool is_client;

static void disconnect(void)
{
    if (connection >= 0)
        close(connection);
    connection = -1;
}

void cuda_mps_forget(void)
{
    disconnect();
}

/* The inode behind pid:[...]: tells namespaces apart, in which every container counts its processes anew. */
static uint64_t pid_namespace(void)
{
    char link[64];
    unsigned long long inode = 0;
    ssize_t length = readlink("/proc/self/ns/pid", link, sizeof link - 1);
    if (length > 0) {
        link[length] = '\0';
        if (sscanf(link, "pid:[%llu]", &inode) != 1)
            inode = 0;
    }
    return inode;
}

static void fill_hello(struct mps_hello *hello, const struct cuda_device *devices, unsigned int count)
{
    const char *percentage = getenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE");
    const char *partitioned = getenv("CUDA_MPS_ENABLE_PER_CTX_DEVICE_MULTIPROCESSOR_PARTITIONING");
    hello->process.pid = getpid();
    hello->process.pid_namespace = pid_namespace();
    snprintf(hello->process.command, sizeof hello->process.command, "%s", program_invocation_short_name);
    if (percentage == NULL || !mps_parse_percentage(percentage, &hello->percentage))
        hello->percentage = 0;
    hello->partitioned = partitioned != NULL && strcmp(partitioned, "1") == 0;
    hello->device_count = count;
    for (unsigned int i = 0; i < count; i++)
        device_key(&devices[i].device, hello->devices[i]);
}

/* May take long: the server of another user has to end first. */
static CUresult greet(const struct cuda_device *devices, unsigned int count, struct mps_message *answer)
{
    struct mps_message hello = mps_message(MPS_HELLO);
    fill_hello(&hello.hello, devices, count);
    if (!mps_send(connection, &hello, -1, true) || mps_receive(connection, answer, NULL, true) != MPS_RECEIVED ||
        answer->kind != MPS_WELCOME)
        return CUDA_ERROR_MPS_CONNECTION_FAILED;
    return (CUresult)answer->welcome.result;
}

/* The devices that the server has, in the order of its ordinals. */
static void take_granted(struct cuda_device *devices, unsigned int *count, const struct mps_welcome *welcome)
{
    struct cuda_device reachable[DEVICES_MAX];
    unsigned int kept = 0;
    memcpy(reachable, devices, *count * sizeof *devices);
    for (unsigned int ordinal = 0; ordinal < DEVICES_MAX; ordinal++) {
        for (unsigned int i = 0; i < *count && kept < DEVICES_MAX; i++) {
            if (welcome->granted[i] == 0 || welcome->ordinals[i] != ordinal)
                continue;
            devices[kept] = reachable[i];
            devices[kept].granted = welcome->granted[i];
            devices[kept++].mps_number = i;
        }
    }
    *count = kept;
}

enum cuda_mps_start cuda_mps_connect(struct cuda_device *devices, unsigned int *count,
                                     uint64_t limits[DEVICES_MAX], CUresult *result)
{
    struct mps_message answer;
    is_client = false;
    /* No socket, or one whose daemon is gone: CUDA runs without MPS then. Measured. */
    connection = mps_connect("control");
    if (connection < 0)
        return CUDA_MPS_ABSENT;
    *result = greet(devices, *count, &answer);
    if (*result != CUDA_SUCCESS) {
        disconnect();
        return CUDA_MPS_FAILED;
    }
    take_granted(devices, count, &answer.welcome);
    memcpy(limits, answer.welcome.limits, sizeof answer.welcome.limits);
    is_client = true;
    return CUDA_MPS_CONNECTED;
}

CUresult cuda_mps_call(int kind, unsigned int device, uint32_t context_id, uint64_t bytes, uint64_t *value)
{
    if (!is_client)
        return CUDA_SUCCESS;
    if (connection < 0)
        return CUDA_ERROR_MPS_RPC_FAILURE;
    struct mps_message message = mps_message((enum mps_kind)kind);
    message.request =
        (struct mps_request){.device = cuda_device(device)->mps_number, .context_id = context_id, .bytes = bytes};
    if (!mps_send(connection, &message, -1, true) || mps_receive(connection, &message, NULL, true) != MPS_RECEIVED ||
        message.kind != MPS_REPLY) {
        disconnect();
        return CUDA_ERROR_MPS_RPC_FAILURE;
    }
    if (value != NULL)
        *value = message.reply.value;
    return (CUresult)message.reply.result;
}
