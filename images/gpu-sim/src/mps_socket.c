#include "mps_socket.h"

#include "mps_directories.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { BACKLOG = 64, CONNECT_SECONDS = 10 };

static bool set_address(struct sockaddr_un *address, const char *name)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    int length = snprintf(address->sun_path, sizeof address->sun_path, "%s/%s", mps_pipe_directory(), name);
    if (length < (int)sizeof address->sun_path)
        return true;
    errno = ENAMETOOLONG;
    return false;
}

static int close_failed(int socket)
{
    int error = errno;
    close(socket);
    errno = error;
    return -1;
}

int mps_connect(const char *name)
{
    struct sockaddr_un address;
    if (!set_address(&address, name))
        return -1;
    int connection = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (connection < 0)
        return -1;
    /* A daemon that no longer accepts must not hold its clients for ever. */
    struct timeval limit = {.tv_sec = CONNECT_SECONDS};
    setsockopt(connection, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    if (connect(connection, (struct sockaddr *)&address, sizeof address) != 0)
        return close_failed(connection);
    return connection;
}

int mps_listen(const char *name, unsigned int mode)
{
    struct sockaddr_un address;
    if (!set_address(&address, name))
        return -1;
    int listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (listener < 0)
        return -1;
    /* The caller holds the directory's lock, so a socket that is already there is a dead daemon's. */
    unlink(address.sun_path);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || chmod(address.sun_path, mode) != 0 ||
        listen(listener, BACKLOG) != 0)
        return close_failed(listener);
    return listener;
}

struct mps_message mps_message(enum mps_kind kind)
{
    return (struct mps_message){.magic = MPS_MAGIC, .version = MPS_PROTOCOL_VERSION, .kind = kind};
}

union control {
    char space[CMSG_SPACE(sizeof(int))];
    struct cmsghdr header;
};

bool mps_send(int socket, const struct mps_message *message, int passed, bool wait)
{
    struct iovec part = {.iov_base = (void *)(uintptr_t)message, .iov_len = sizeof *message};
    union control control = {.space = ""};
    struct msghdr packet = {.msg_iov = &part, .msg_iovlen = 1};
    if (passed >= 0) {
        packet.msg_control = control.space;
        packet.msg_controllen = sizeof control.space;
        struct cmsghdr *header = CMSG_FIRSTHDR(&packet);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof passed);
        memcpy(CMSG_DATA(header), &passed, sizeof passed);
    }
    ssize_t sent;
    do
        sent = sendmsg(socket, &packet, MSG_NOSIGNAL | (wait ? 0 : MSG_DONTWAIT));
    while (sent < 0 && errno == EINTR);
    return sent == (ssize_t)sizeof *message;
}

static int passed_descriptor(struct msghdr *packet)
{
    int passed = -1;
    struct cmsghdr *header = CMSG_FIRSTHDR(packet);
    if (header != NULL && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS &&
        header->cmsg_len == CMSG_LEN(sizeof passed))
        memcpy(&passed, CMSG_DATA(header), sizeof passed);
    return passed;
}

/* Texts end, and hold nothing that a terminal or a log would obey. */
static void clean_text(char *text, size_t size)
{
    text[size - 1] = '\0';
    for (; *text != '\0'; text++) {
        if (!isprint((unsigned char)*text) && *text != '\n')
            *text = '?';
    }
}

static bool is_well_formed(struct mps_message *message)
{
    if (message->magic != MPS_MAGIC || message->version != MPS_PROTOCOL_VERSION)
        return false;
    switch (message->kind) {
    case MPS_COMMAND:
    case MPS_TEXT: clean_text(message->text, sizeof message->text); return true;
    case MPS_HELLO:
        clean_text(message->hello.process.command, sizeof message->hello.process.command);
        return message->hello.device_count <= DEVICES_MAX;
    default: return true;
    }
}

enum mps_received mps_receive(int socket, struct mps_message *message, int *passed, bool wait)
{
    struct iovec part = {.iov_base = message, .iov_len = sizeof *message};
    union control control = {.space = ""};
    /* Without room for them, the kernel closes descriptors that a stranger sends. */
    struct msghdr packet = {.msg_iov = &part,
                            .msg_iovlen = 1,
                            .msg_control = passed == NULL ? NULL : control.space,
                            .msg_controllen = passed == NULL ? 0 : sizeof control.space};
    ssize_t received;
    do
        received = recvmsg(socket, &packet, MSG_CMSG_CLOEXEC | (wait ? 0 : MSG_DONTWAIT));
    while (received < 0 && errno == EINTR);
    if (passed != NULL)
        *passed = received > 0 ? passed_descriptor(&packet) : -1;
    if (received < 0)
        return errno == EAGAIN || errno == EWOULDBLOCK ? MPS_NOTHING_YET : MPS_CLOSED;
    if (received == 0)
        return MPS_CLOSED;
    if ((packet.msg_flags & MSG_TRUNC) != 0 || received != (ssize_t)sizeof *message || !is_well_formed(message))
        return MPS_GARBAGE;
    return MPS_RECEIVED;
}
