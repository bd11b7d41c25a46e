/* The daemon's side of its server: starting it as a user, and knowing its clients from what it tells. */
#include "mps_daemon.h"

#include "mps_directories.h"
#include "mps_memory.h"
#include "mps_server.h"
#include "mps_socket.h"
#include "own_file.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FIRST_HIGH_DESCRIPTOR = 64 };

static bool become_user(const struct mps_daemon *daemon, uid_t uid, gid_t gid)
{
    if (daemon->multiuser || uid == geteuid())
        return true;
    return setgroups(0, NULL) == 0 && setresgid(gid, gid, gid) == 0 && setresuid(uid, uid, uid) == 0;
}

static void execute_server(bool multiuser)
{
    char path[PATH_MAX + 32];
    /* The second is for who looks at the process; the daemon decides. */
    char *arguments[] = {"nvidia-cuda-mps-server", multiuser ? "-multiuser-server" : NULL, NULL};
    if (own_file(path) && strrchr(path, '/') != NULL) {
        strcpy(strrchr(path, '/') + 1, arguments[0]);
        execv(path, arguments);
    }
    execvp(arguments[0], arguments);
}

/* The server finds its descriptors under fixed numbers; moving them up first keeps one from covering the other. */
static bool place_descriptors(int channel, int log, int memory)
{
    channel = fcntl(channel, F_DUPFD_CLOEXEC, FIRST_HIGH_DESCRIPTOR);
    log = fcntl(log, F_DUPFD_CLOEXEC, FIRST_HIGH_DESCRIPTOR);
    memory = fcntl(memory, F_DUPFD_CLOEXEC, FIRST_HIGH_DESCRIPTOR);
    /* Without a file of its own the server must not take for one what the daemon's parent left open. */
    close(MPS_SERVER_MEMORY);
    return channel >= 0 && log >= 0 && dup2(channel, MPS_SERVER_CHANNEL) >= 0 && dup2(log, MPS_SERVER_LOG) >= 0 &&
           (memory < 0 || dup2(memory, MPS_SERVER_MEMORY) >= 0);
}

static _Noreturn void run_server(const struct mps_daemon *daemon, uid_t uid, gid_t gid, int channel)
{
    sigset_t none;
    int log = mps_log_open("server.log");
    mps_log_line(&daemon->log, "Starting new server %d for user %u", (int)getpid(), uid);
    /* While this is still the daemon's user: the server's may have no right to write in the pipe directory. */
    int memory = mps_memory_create(getpid());
    if (memory < 0)
        mps_log_line(&daemon->log, "NVML will not know what server %d holds: cannot create its file in %s: %s",
                     (int)getpid(), mps_pipe_directory(), strerror(errno));
    if (!become_user(daemon, uid, gid)) {
        mps_log_line(&daemon->log, "Cannot become user %u: %s", uid, strerror(errno));
        _exit(1);
    }
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (place_descriptors(channel, log >= 0 ? log : STDERR_FILENO, memory))
        execute_server(daemon->multiuser);
    mps_log_line(&daemon->log, "Cannot execute nvidia-cuda-mps-server: %s", strerror(errno));
    _exit(1);
}

bool mps_ignores_uuid_limit(const struct mps_daemon *daemon, unsigned int device)
{
    return daemon->devices[device].compute != NULL && !daemon->inventory.config.mps_memory_limit_by_mig_uuid;
}

/* Defaults by UUID and by ordinal are two lists until a server has both; the ordinal's wins. */
static void merge_limits(const struct mps_daemon *daemon, struct mps_settings *settings)
{
    for (unsigned int i = 0; i < daemon->device_count; i++) {
        if (settings->limits[i] == 0 && !mps_ignores_uuid_limit(daemon, i))
            settings->limits[i] = settings->uuid_limits[i];
    }
}

bool mps_server_start(struct mps_daemon *daemon, uid_t uid, gid_t gid)
{
    struct mps_server *server = &daemon->server;
    int channel[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, channel) != 0)
        return false;
    pid_t pid = fork();
    if (pid == 0)
        run_server(daemon, uid, gid, channel[1]);
    close(channel[1]);
    if (pid < 0) {
        close(channel[0]);
        return false;
    }
    *server = (struct mps_server){.pid = pid, .uid = uid, .channel = channel[0], .settings = daemon->defaults};
    merge_limits(daemon, &server->settings);
    mps_server_send_settings(daemon);
    return true;
}

/* The end of its channel is the server's sign to end; its clients then see the end of their connections. */
void mps_server_stop(struct mps_daemon *daemon)
{
    struct mps_server *server = &daemon->server;
    server->stopping = true;
    if (server->channel >= 0)
        close(server->channel);
    server->channel = -1;
}

static void send_or_kill(struct mps_server *server, const struct mps_message *message)
{
    /* Its socket fills only if it no longer reads, which no server of ours does while it works. */
    if (server->channel >= 0 && !mps_send(server->channel, message, -1, false) && errno == EAGAIN)
        kill(server->pid, SIGKILL);
}

void mps_server_send_settings(struct mps_daemon *daemon)
{
    struct mps_message message = mps_message(MPS_SETTINGS);
    message.settings = daemon->server.settings;
    send_or_kill(&daemon->server, &message);
}

void mps_server_terminate_client(struct mps_daemon *daemon, int32_t pid)
{
    struct mps_message message = mps_message(MPS_TERMINATE);
    message.event.process.pid = pid;
    send_or_kill(&daemon->server, &message);
}

bool mps_server_hand_over(struct mps_daemon *daemon, struct mps_message *hello, int socket)
{
    struct mps_server *server = &daemon->server;
    if (!mps_send(server->channel, hello, socket, false))
        return false;
    server->expected++;
    return true;
}

bool mps_server_is_idle(const struct mps_server *server)
{
    return server->client_count == 0 && server->expected == 0;
}

static void forget_client(struct mps_server *server, uint32_t client_id)
{
    for (unsigned int i = 0; i < server->client_count; i++) {
        if (server->clients[i].client_id == client_id) {
            server->client_count--;
            memmove(&server->clients[i], &server->clients[i + 1],
                    (server->client_count - i) * sizeof server->clients[0]);
            return;
        }
    }
}

/* One context of the client, or all of them with context_id 0. */
static void forget_contexts(struct mps_server *server, uint32_t client_id, uint32_t context_id)
{
    unsigned int kept = 0;
    for (unsigned int i = 0; i < server->context_count; i++) {
        const struct mps_event *context = &server->contexts[i];
        if (context->process.client_id != client_id || (context_id != 0 && context->context_id != context_id))
            server->contexts[kept++] = *context;
    }
    server->context_count = kept;
}

static void take_event(struct mps_daemon *daemon, const struct mps_message *message)
{
    struct mps_server *server = &daemon->server;
    const struct mps_event *event = &message->event;
    switch (message->kind) {
    case MPS_READY:
        server->ready = true;
        mps_log_line(&daemon->log, "NEW SERVER %d: Ready", (int)server->pid);
        break;
    case MPS_CLIENT_ACCEPTED:
        if (server->client_count < MPS_MAX_CLIENTS)
            server->clients[server->client_count++] = event->process;
        server->expected--;
        break;
    case MPS_CLIENT_REFUSED: server->expected--; break;
    case MPS_CLIENT_ENDED:
        forget_client(server, event->process.client_id);
        forget_contexts(server, event->process.client_id, 0);
        break;
    case MPS_CONTEXT_CREATED:
        if (server->context_count < MPS_ALL_CONTEXTS)
            server->contexts[server->context_count++] = *event;
        break;
    case MPS_CONTEXT_ENDED: forget_contexts(server, event->process.client_id, event->context_id); break;
    default: break;
    }
}

void mps_server_receive(struct mps_daemon *daemon)
{
    struct mps_server *server = &daemon->server;
    struct mps_message message;
    while (server->channel >= 0) {
        switch (mps_receive(server->channel, &message, NULL, false)) {
        case MPS_RECEIVED: take_event(daemon, &message); break;
        case MPS_NOTHING_YET: return;
        default: mps_server_stop(daemon); return;
        }
    }
}

void mps_server_ended(struct mps_daemon *daemon, pid_t pid, int status)
{
    struct mps_server *server = &daemon->server;
    if (pid != server->pid)
        return;
    mps_server_stop(daemon);
    mps_memory_remove(pid);
    mps_log_line(&daemon->log, "Server %d exited with status %d", (int)pid, WEXITSTATUS(status));
    bool failed = !server->ready;
    server->pid = 0;
    server->client_count = server->context_count = server->expected = 0;
    if (failed)
        mps_peers_refuse(daemon, server->uid, daemon->multiuser);
}
