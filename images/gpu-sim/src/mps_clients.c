/* The server's clients: what each is granted when it connects, and its requests. */
#include "mps_server.h"

#include "mps_socket.h"
#include "mps_values.h"

#include <string.h>
#include <unistd.h>

static void tell_daemon(enum mps_kind kind, const struct mps_client *client, const struct mps_context *context)
{
    struct mps_message message = mps_message(kind);
    if (client != NULL)
        message.event.process = client->process;
    if (context != NULL) {
        message.event.context_id = context->id;
        message.event.device = client->devices[context->device].device;
    }
    /* Waits if the daemon is busy: no later answer may be built on less than this. */
    mps_send(MPS_SERVER_CHANNEL, &message, -1, true);
}

static struct mps_client *free_place(struct mps_server_state *server)
{
    for (unsigned int i = 0; i < MPS_MAX_CLIENTS; i++) {
        if (server->clients[i].socket < 0)
            return &server->clients[i];
    }
    return NULL;
}

/* By its whole UUID: the client names the device it sees itself. */
static bool find_device(const struct mps_server_state *server, const unsigned char client_key[DEVICE_KEY_SIZE],
                        unsigned int *index)
{
    for (*index = 0; *index < server->device_count; (*index)++) {
        unsigned char key[DEVICE_KEY_SIZE];
        if (device_key(&server->devices[*index], key) && memcmp(key, client_key, sizeof key) == 0)
            return true;
    }
    return false;
}

static void grant(const struct mps_server_state *server, const struct mps_hello *hello, struct mps_client *client,
                  struct mps_welcome *welcome)
{
    uint32_t percentage = server->settings.percentage;
    if (hello->partitioned != 0)
        percentage = hello->percentage != 0 ? hello->percentage : MPS_ALL_THREADS;
    else if (hello->percentage != 0 && hello->percentage < percentage)
        percentage = hello->percentage;
    memcpy(welcome->limits, server->settings.limits, sizeof welcome->limits);
    client->device_count = hello->device_count;
    for (unsigned int i = 0; i < hello->device_count; i++) {
        struct mps_client_device *device = &client->devices[i];
        if (!find_device(server, hello->devices[i], &device->device))
            continue;
        device->usable = true;
        device->granted = mps_granted_multiprocessors(&server->devices[device->device], percentage);
        welcome->granted[i] = device->granted;
        welcome->ordinals[i] = device->device;
    }
}

static void refuse(int socket)
{
    struct mps_message message = mps_message(MPS_WELCOME);
    message.welcome.result = CUDA_ERROR_MPS_MAX_CLIENTS_REACHED;
    tell_daemon(MPS_CLIENT_REFUSED, NULL, NULL);
    mps_send(socket, &message, -1, false);
    close(socket);
}

void mps_client_accept(struct mps_server_state *server, const struct mps_hello *hello, int socket)
{
    struct mps_client *client = free_place(server);
    struct mps_message message = mps_message(MPS_WELCOME);
    int pid = hello->process.pid;
    mps_log_line(&server->log, "Received new client request for {PID: %d, Context ID: 0}", pid);
    if (client == NULL || socket < 0) {
        refuse(socket);
        return;
    }
    *client = (struct mps_client){.socket = socket, .process = hello->process};
    client->process.client_id = ++server->next_client;
    grant(server, hello, client, &message.welcome);
    mps_log_line(&server->log, "Client {PID: %d, Context ID: 0} connected", pid);
    /* Before the client knows: whoever it tells then finds it in the daemon's lists. */
    tell_daemon(MPS_CLIENT_ACCEPTED, client, NULL);
    mps_send(socket, &message, -1, false);
}

static unsigned int active_contexts(const struct mps_server_state *server)
{
    unsigned int count = 0;
    for (unsigned int i = 0; i < server->device_count; i++)
        count += server->memory[i].contexts;
    return count;
}

static void end_context(struct mps_server_state *server, struct mps_client *client, struct mps_context *context)
{
    struct mps_client_device *device = &client->devices[context->device];
    device_memory_end_context(&server->memory[device->device], &device->memory, device->granted);
    context->exists = false;
    mps_log_line(&server->log, "Client {PID: %d, Context ID: %u} exiting. Number of active client contexts is %u.",
                 client->process.pid, context->id, active_contexts(server));
    tell_daemon(MPS_CONTEXT_ENDED, client, context);
}

static void release_everything(struct mps_server_state *server, struct mps_client *client)
{
    for (unsigned int i = 0; i < MPS_MAX_CONTEXTS; i++) {
        if (client->contexts[i].exists)
            end_context(server, client, &client->contexts[i]);
    }
    for (unsigned int i = 0; i < client->device_count; i++) {
        struct mps_client_device *device = &client->devices[i];
        if (device->usable)
            device_memory_free(&server->memory[device->device], &device->memory, device->memory.allocated);
    }
    mps_server_publish(server);
}

static void end_client(struct mps_server_state *server, struct mps_client *client)
{
    release_everything(server, client);
    mps_log_line(&server->log, "Client process %d disconnected", client->process.pid);
    tell_daemon(MPS_CLIENT_ENDED, client, NULL);
    close(client->socket);
    client->socket = -1;
}

void mps_client_terminate(struct mps_server_state *server, int32_t pid)
{
    for (unsigned int i = 0; i < MPS_MAX_CLIENTS; i++) {
        struct mps_client *client = &server->clients[i];
        if (client->socket < 0 || client->process.pid != pid || client->terminated)
            continue;
        mps_log_line(&server->log, "Client {PID: %d} terminated", pid);
        release_everything(server, client);
        client->terminated = true;
    }
}

static int32_t create_context(struct mps_server_state *server, struct mps_client *client, unsigned int number,
                              uint64_t *id)
{
    struct mps_client_device *device = &client->devices[number];
    struct mps_context *context = client->contexts;
    while (context < client->contexts + MPS_MAX_CONTEXTS && context->exists)
        context++;
    if (context == client->contexts + MPS_MAX_CONTEXTS ||
        server->memory[device->device].contexts >= device_mps_contexts(&server->devices[device->device]))
        return CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED;
    if (!device_memory_add_context(&server->memory[device->device], &device->memory, device->granted))
        return CUDA_ERROR_OUT_OF_MEMORY;
    *context = (struct mps_context){.exists = true, .id = ++client->next_context, .device = number};
    *id = context->id;
    const struct device *named = &server->devices[device->device];
    mps_log_line(&server->log, "Client {PID: %d, Context ID: %u} connected", client->process.pid, context->id);
    mps_log_line(&server->log, "Device %s (uuid %s) is associated", named->gpu->model->product_name,
                 device_uuid(named));
    mps_log_line(&server->log, "Status of client {PID: %d, Context ID: %u} is ACTIVE", client->process.pid,
                 context->id);
    tell_daemon(MPS_CONTEXT_CREATED, client, context);
    return CUDA_SUCCESS;
}

static int32_t destroy_context(struct mps_server_state *server, struct mps_client *client, uint32_t id)
{
    for (unsigned int i = 0; i < MPS_MAX_CONTEXTS; i++) {
        struct mps_context *context = &client->contexts[i];
        if (!context->exists || context->id != id)
            continue;
        end_context(server, client, context);
        return CUDA_SUCCESS;
    }
    return CUDA_ERROR_INVALID_CONTEXT;
}

static int32_t serve(struct mps_server_state *server, struct mps_client *client, const struct mps_message *message,
                     uint64_t *value)
{
    const struct mps_request *request = &message->request;
    if (client->terminated)
        return CUDA_ERROR_MPS_CLIENT_TERMINATED;
    if (message->kind == MPS_SYNCHRONIZE)
        return CUDA_SUCCESS;
    if (request->device >= client->device_count || !client->devices[request->device].usable)
        return CUDA_ERROR_INVALID_DEVICE;
    struct mps_client_device *device = &client->devices[request->device];
    struct device_memory *memory = &server->memory[device->device];
    switch (message->kind) {
    case MPS_CONTEXT_CREATE: return create_context(server, client, request->device, value);
    case MPS_CONTEXT_DESTROY: return destroy_context(server, client, request->context_id);
    case MPS_ALLOCATE:
        return device_memory_allocate(memory, &device->memory, request->bytes) ? CUDA_SUCCESS
                                                                               : CUDA_ERROR_OUT_OF_MEMORY;
    case MPS_FREE:
        return device_memory_free(memory, &device->memory, request->bytes) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    case MPS_AVAILABLE: *value = device_memory_available(memory, &device->memory); return CUDA_SUCCESS;
    default: return CUDA_ERROR_NOT_SUPPORTED;
    }
}

void mps_client_receive(struct mps_server_state *server, struct mps_client *client)
{
    struct mps_message message, answer = mps_message(MPS_REPLY);
    if (client->socket < 0)
        return;
    switch (mps_receive(client->socket, &message, NULL, false)) {
    case MPS_NOTHING_YET: return;
    case MPS_RECEIVED:
        answer.reply.result = serve(server, client, &message, &answer.reply.value);
        /* Before the client knows: whoever it tells then finds it in NVML. */
        mps_server_publish(server);
        /* A client that does not read its answers is no client of ours. */
        if (!mps_send(client->socket, &answer, -1, false))
            end_client(server, client);
        return;
    default: end_client(server, client);
    }
}
