/* What MPS clients, nvidia-cuda-mps-control and nvidia-cuda-mps-server say to each other. The protocol is the
   simulation's own.

   A connection to the daemon's socket is a user interface's (MPS_COMMAND, answered by MPS_TEXT until MPS_END) or a
   client's (MPS_HELLO). The daemon passes a client's connection on to the server, which answers MPS_WELCOME and then
   one MPS_REPLY a request; both sides see the other's end as the end of the connection. */
#ifndef GPU_SIM_MPS_PROTOCOL_H
#define GPU_SIM_MPS_PROTOCOL_H

#include "cuda.h"
#include "devices.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    MPS_MAGIC = 0x4d505353,
    MPS_PROTOCOL_VERSION = 2,
    MPS_TEXT_SIZE = 1024,
    MPS_COMMAND_SIZE = 16, /* of a process's name, as the kernel keeps it */
    /* NVIDIA's documentation: 48 client contexts a device. */
    MPS_MAX_CLIENTS = 48,
    MPS_MAX_CONTEXTS = DEVICE_MPS_CONTEXTS,
    /* Limits may be set for ordinals that no device has; they are remembered without effect. */
    MPS_ORDINALS = DEVICES_MAX,
};

enum mps_kind {
    MPS_COMMAND = 1, /* user interface to daemon */
    MPS_TEXT,        /* daemon to user interface */
    MPS_END,
    MPS_HELLO,   /* client to daemon, and daemon to server with the client's connection */
    MPS_WELCOME, /* daemon or server to client */
    MPS_CONTEXT_CREATE, /* client to server */
    MPS_CONTEXT_DESTROY,
    MPS_ALLOCATE,
    MPS_FREE,
    MPS_AVAILABLE,
    MPS_SYNCHRONIZE,
    MPS_REPLY,    /* server to client */
    MPS_SETTINGS, /* daemon to server */
    MPS_TERMINATE,
    MPS_READY, /* server to daemon */
    MPS_CLIENT_ACCEPTED,
    MPS_CLIENT_REFUSED,
    MPS_CLIENT_ENDED,
    MPS_CONTEXT_CREATED,
    MPS_CONTEXT_ENDED,
};

struct mps_process {
    int32_t pid;        /* as the daemon sees it; 0 for one of a PID namespace beside its own: measured */
    uint32_t client_id; /* given by the server, 1, 2, ... */
    uint64_t pid_namespace;
    char command[MPS_COMMAND_SIZE];
};

struct mps_hello {
    struct mps_process process;
    uint32_t uid; /* the daemon writes the socket's into it */
    uint32_t percentage;
    uint32_t partitioned; /* the client's percentage counts, whatever the server's is */
    uint32_t device_count;
    unsigned char devices[DEVICES_MAX][DEVICE_KEY_SIZE]; /* all that the client can reach */
};

struct mps_welcome {
    int32_t result; /* CUresult */
    /* By the order of the hello. */
    uint32_t granted[DEVICES_MAX]; /* multiprocessors; 0: the server does not have this device */
    uint32_t ordinals[DEVICES_MAX]; /* the server's */
    /* By the numbers that the client itself gives its devices in the end: measured. */
    uint64_t limits[DEVICES_MAX];
};

struct mps_request {
    uint32_t device; /* by the order of the hello */
    uint32_t context_id;
    uint64_t bytes;
};

struct mps_reply {
    int32_t result;
    uint64_t value;
};

struct mps_settings {
    uint32_t percentage;
    uint32_t priority;
    uint64_t limits[MPS_ORDINALS]; /* by the daemon's ordinals; 0: none */
    uint64_t uuid_limits[DEVICES_MAX]; /* those that commands gave by UUID */
};

struct mps_event {
    struct mps_process process;
    uint32_t context_id;
    uint32_t device; /* the daemon's number of it */
};

struct mps_message {
    uint32_t magic;
    uint32_t version;
    uint32_t kind;
    union {
        char text[MPS_TEXT_SIZE];
        struct mps_hello hello;
        struct mps_welcome welcome;
        struct mps_request request;
        struct mps_reply reply;
        struct mps_settings settings;
        struct mps_event event;
    };
};

#endif
