/* nvidia-cuda-mps-server: keeps its clients' shares of the devices. Ends with its channel to the daemon. */
#include "mps_server.h"

#include "mps_directories.h"
#include "mps_memory.h"
#include "mps_socket.h"
#include "mps_values.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static struct mps_server_state server;

static bool load_devices(void)
{
    char error[PATH_MAX + 256];
    if (!inventory_load(&server.inventory, error, sizeof error)) {
        mps_log_line(&server.log, "Cannot read the simulated GPUs: %s", error);
        return false;
    }
    server.device_count = devices_list(&server.inventory, getenv("CUDA_VISIBLE_DEVICES"), server.devices);
    for (unsigned int i = 0; i < server.device_count; i++) {
        char name[MIG_NAME_SIZE + 16];
        device_name(&server.devices[i], name, sizeof name);
        device_memory_start(&server.memory[i], device_memory(&server.devices[i]), true);
        mps_log_line(&server.log, "Creating server context on device %u (%s)", i, name);
    }
    return true;
}

void mps_server_publish(struct mps_server_state *state)
{
    struct memory_record record = {.count = state->device_count};
    for (unsigned int i = 0; i < record.count; i++) {
        snprintf(record.uuids[i], sizeof record.uuids[i], "%s", device_uuid(&state->devices[i]));
        record.used[i] = state->memory[i].used;
    }
    if (state->memory_file < 0 || memcmp(record.used, state->published.used, sizeof record.used) == 0)
        return;
    state->published = record;
    if (mps_memory_publish(state->memory_file, &record))
        return;
    /* No figure rather than an old one: without its lock the file counts no longer. */
    mps_log_line(&state->log, "Cannot publish the memory in use: %s", strerror(errno));
    close(state->memory_file);
    state->memory_file = -1;
}

static void log_settings(void)
{
    char percentage[16];
    unsigned int cuda_version = server.inventory.config.cuda_version;
    mps_format_percentage(server.settings.percentage, percentage);
    mps_log_line(&server.log, "CUDA MPS Server for Linux/Unix. Binary version: %u (simulated)", cuda_version);
    mps_log_line(&server.log, "Display Driver version: %d", atoi(server.inventory.config.driver_version));
    mps_log_line(&server.log, "Active Threads Percentage set to %s", percentage);
}

/* A changed percentage is not logged, as NVIDIA's server does not log it. */
static void take_settings(const struct mps_settings *settings)
{
    for (unsigned int i = 0; i < MPS_ORDINALS; i++) {
        char name[MIG_UUID_SIZE];
        if (settings->limits[i] == server.settings.limits[i])
            continue;
        snprintf(name, sizeof name, "%u", i);
        if (i < server.device_count && settings->limits[i] == settings->uuid_limits[i])
            snprintf(name, sizeof name, "%s", device_uuid(&server.devices[i]));
        mps_log_line(&server.log, "Device pinned memory limit for device %s set to 0x%llx bytes", name,
                     (unsigned long long)settings->limits[i]);
    }
    server.settings = *settings;
}

static bool take_message(const struct mps_message *message, int passed)
{
    switch (message->kind) {
    case MPS_SETTINGS: take_settings(&message->settings); return true;
    case MPS_HELLO: mps_client_accept(&server, &message->hello, passed); return true;
    case MPS_TERMINATE: mps_client_terminate(&server, message->event.process.pid); return true;
    default: return false;
    }
}

/* False when the daemon is gone or no longer makes sense. */
static bool receive_from_daemon(void)
{
    struct mps_message message;
    int passed = -1;
    for (;;) {
        switch (mps_receive(MPS_SERVER_CHANNEL, &message, &passed, false)) {
        case MPS_RECEIVED:
            if (!take_message(&message, passed))
                return false;
            break;
        case MPS_NOTHING_YET: return true;
        default: return false;
        }
    }
}

static void wait_for_messages(void)
{
    struct pollfd waited[1 + MPS_MAX_CLIENTS] = {{.fd = MPS_SERVER_CHANNEL, .events = POLLIN}};
    for (unsigned int i = 0; i < MPS_MAX_CLIENTS; i++)
        waited[1 + i] = (struct pollfd){.fd = server.clients[i].socket, .events = POLLIN};
    poll(waited, 1 + MPS_MAX_CLIENTS, -1);
}

static bool start(void)
{
    struct mps_message settings, ready = mps_message(MPS_READY);
    mps_log_line(&server.log, "Startup (simulated: no CUDA code runs)");
    mps_log_line(&server.log, "Connecting to control daemon on socket: %s/control", mps_pipe_directory());
    mps_log_line(&server.log, "Initializing server process");
    server.log.role = "Server";
    if (!load_devices() || mps_receive(MPS_SERVER_CHANNEL, &settings, NULL, true) != MPS_RECEIVED ||
        settings.kind != MPS_SETTINGS)
        return false;
    server.settings.percentage = settings.settings.percentage;
    log_settings();
    take_settings(&settings.settings);
    mps_server_publish(&server);
    mps_log_line(&server.log, "Server Priority set to %u", server.settings.priority);
    mps_log_line(&server.log, "Server has started");
    return mps_send(MPS_SERVER_CHANNEL, &ready, -1, true);
}

static bool has_channel(void)
{
    int type = 0;
    socklen_t size = sizeof type;
    return getsockopt(MPS_SERVER_CHANNEL, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_SEQPACKET;
}

static int memory_file(void)
{
    struct stat status;
    return fstat(MPS_SERVER_MEMORY, &status) == 0 && S_ISREG(status.st_mode) ? MPS_SERVER_MEMORY : -1;
}

int main(void)
{
    if (!has_channel()) {
        fputs("nvidia-cuda-mps-server (simulated): nvidia-cuda-mps-control starts it; it does nothing by itself\n",
              stderr);
        return EXIT_FAILURE;
    }
    server.log = (struct mps_log){.file = MPS_SERVER_LOG, .role = "Other"};
    server.memory_file = memory_file();
    for (unsigned int i = 0; i < MPS_MAX_CLIENTS; i++)
        server.clients[i].socket = -1;
    if (!start())
        return EXIT_FAILURE;
    for (;;) {
        wait_for_messages();
        for (unsigned int i = 0; i < MPS_MAX_CLIENTS; i++)
            mps_client_receive(&server, &server.clients[i]);
        if (!receive_from_daemon())
            return EXIT_SUCCESS;
    }
}
