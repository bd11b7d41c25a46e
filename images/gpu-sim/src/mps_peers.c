/* Connections to the daemon's sockets: user interfaces with their commands, and clients until a server takes them. */
#include "mps_daemon.h"

#include "mps_socket.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { FIRST_MESSAGE_MILLISECONDS = 5000 };

static void close_peer(struct mps_peer *peer)
{
    close(peer->socket);
    peer->state = PEER_NONE;
    peer->socket = -1;
}

static struct mps_peer *free_peer(struct mps_daemon *daemon)
{
    for (unsigned int i = 0; i < MPS_MAX_PEERS; i++) {
        if (daemon->peers[i].state == PEER_NONE)
            return &daemon->peers[i];
    }
    return NULL;
}

static void admit(struct mps_daemon *daemon, int socket)
{
    struct mps_peer *peer = free_peer(daemon);
    struct ucred sender = {.uid = 0};
    socklen_t size = sizeof sender;
    if (peer == NULL || getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &sender, &size) != 0) {
        close(socket);
        return;
    }
    mps_log_line(&daemon->log, "Accepting connection...");
    *peer = (struct mps_peer){.state = PEER_NEW,
                              .socket = socket,
                              .pid = sender.pid,
                              .uid = sender.uid,
                              .gid = sender.gid,
                              .deadline = mps_now() + FIRST_MESSAGE_MILLISECONDS};
}

void mps_peers_accept(struct mps_daemon *daemon)
{
    for (unsigned int i = 0; i < MPS_LISTENERS; i++) {
        int socket;
        while ((socket = accept4(daemon->listeners[i], NULL, NULL, SOCK_CLOEXEC)) >= 0)
            admit(daemon, socket);
    }
}

static bool send_text(int socket, const char *text, size_t length)
{
    while (length > 0) {
        struct mps_message message = mps_message(MPS_TEXT);
        size_t part = length < MPS_TEXT_SIZE - 1 ? length : MPS_TEXT_SIZE - 1;
        memcpy(message.text, text, part);
        if (!mps_send(socket, &message, -1, false))
            return false;
        text += part;
        length -= part;
    }
    return true;
}

static void run_command(struct mps_daemon *daemon, struct mps_peer *peer, struct mps_message *message)
{
    static struct mps_answer answer;
    const struct mps_message end = mps_message(MPS_END);
    if (peer->state == PEER_NEW)
        mps_log_line(&daemon->log, "NEW UI");
    peer->state = PEER_INTERFACE;
    message->text[strcspn(message->text, "\n")] = '\0';
    mps_log_line(&daemon->log, "Cmd:%s", message->text);
    answer.log = &daemon->log;
    answer.length = 0;
    /* What the server has told by now belongs into the answer. */
    mps_server_receive(daemon);
    if (mps_command(daemon, peer->uid, message->text, &answer))
        peer->state = PEER_QUITTING;
    else if (!send_text(peer->socket, answer.text, answer.length) || !mps_send(peer->socket, &end, -1, false))
        close_peer(peer);
}

static void refuse(struct mps_peer *peer)
{
    struct mps_message message = mps_message(MPS_WELCOME);
    message.welcome.result = CUDA_ERROR_MPS_CONNECTION_FAILED;
    mps_send(peer->socket, &message, -1, false);
    close_peer(peer);
}

static void take_message(struct mps_daemon *daemon, struct mps_peer *peer, struct mps_message *message)
{
    if (message->kind == MPS_COMMAND && (peer->state == PEER_NEW || peer->state == PEER_INTERFACE)) {
        run_command(daemon, peer, message);
    } else if (message->kind == MPS_HELLO && peer->state == PEER_NEW) {
        peer->state = PEER_PENDING;
        peer->hello = *message;
        peer->hello.hello.uid = peer->uid;
        peer->hello.hello.process.pid = peer->pid;
    } else {
        mps_log_line(&daemon->log, "Unexpected message from user %u", peer->uid);
        close_peer(peer);
    }
}

static void receive(struct mps_daemon *daemon, struct mps_peer *peer)
{
    struct mps_message message;
    switch (mps_receive(peer->socket, &message, NULL, false)) {
    case MPS_RECEIVED: take_message(daemon, peer, &message); return;
    case MPS_NOTHING_YET:
        if (peer->state == PEER_NEW && mps_now() >= peer->deadline)
            close_peer(peer);
        return;
    case MPS_GARBAGE: mps_log_line(&daemon->log, "User did not send valid credentials"); break;
    case MPS_CLOSED:
        if (peer->state == PEER_INTERFACE)
            mps_log_line(&daemon->log, "UI closed");
    }
    close_peer(peer);
}

void mps_peers_receive(struct mps_daemon *daemon)
{
    for (unsigned int i = 0; i < MPS_MAX_PEERS; i++) {
        if (daemon->peers[i].state != PEER_NONE)
            receive(daemon, &daemon->peers[i]);
    }
}

static bool server_serves(const struct mps_daemon *daemon, uid_t uid)
{
    const struct mps_server *server = &daemon->server;
    return server->pid != 0 && server->ready && !server->stopping && (daemon->multiuser || server->uid == uid);
}

static void serve_one(struct mps_daemon *daemon, struct mps_peer *peer)
{
    int pid = peer->hello.hello.process.pid;
    if (daemon->quitting) {
        refuse(peer);
    } else if (server_serves(daemon, peer->uid)) {
        mps_log_line(&daemon->log, "NEW CLIENT %d from user %u: Server already exists", pid, peer->uid);
        if (mps_server_hand_over(daemon, &peer->hello, peer->socket))
            close_peer(peer);
        else
            refuse(peer);
    } else if (!peer->told) {
        mps_log_line(&daemon->log, "NEW CLIENT %d from user %u: Server is not ready, push client to pending list", pid,
                     peer->uid);
        peer->told = true;
    }
}

/* The client whose user the next server is for; NULL if none waits. */
static struct mps_peer *first_pending(struct mps_daemon *daemon)
{
    for (unsigned int i = 0; i < MPS_MAX_PEERS; i++) {
        if (daemon->peers[i].state == PEER_PENDING)
            return &daemon->peers[i];
    }
    return NULL;
}

void mps_peers_serve_pending(struct mps_daemon *daemon)
{
    for (unsigned int i = 0; i < MPS_MAX_PEERS; i++) {
        if (daemon->peers[i].state == PEER_PENDING)
            serve_one(daemon, &daemon->peers[i]);
    }
    struct mps_peer *waiting = first_pending(daemon);
    struct mps_server *server = &daemon->server;
    if (waiting == NULL)
        return;
    if (server->pid == 0) {
        if (!mps_server_start(daemon, waiting->uid, waiting->gid))
            refuse(waiting);
    } else if (server->ready && !server->stopping && mps_server_is_idle(server)) {
        /* It is another user's, and nobody needs it any more. */
        mps_server_stop(daemon);
    }
}

void mps_peers_refuse(struct mps_daemon *daemon, uid_t uid, bool every)
{
    for (unsigned int i = 0; i < MPS_MAX_PEERS; i++) {
        struct mps_peer *peer = &daemon->peers[i];
        if (peer->state == PEER_PENDING && (every || peer->uid == uid))
            refuse(peer);
    }
}

void mps_peers_close(struct mps_daemon *daemon)
{
    for (unsigned int i = 0; i < MPS_MAX_PEERS; i++) {
        if (daemon->peers[i].state != PEER_NONE)
            close_peer(&daemon->peers[i]);
    }
}
