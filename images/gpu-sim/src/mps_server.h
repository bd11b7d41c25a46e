/* nvidia-cuda-mps-server: what it gets from the daemon, and its clients. */
#ifndef GPU_SIM_MPS_SERVER_H
#define GPU_SIM_MPS_SERVER_H

#include "device_memory.h"
#include "devices.h"
#include "memory_record.h"
#include "mps_log.h"
#include "mps_protocol.h"

/* Descriptors under which the daemon leaves its channel, the log and, unless that failed, mps_memory.h's file. */
enum { MPS_SERVER_CHANNEL = 3, MPS_SERVER_LOG = 4, MPS_SERVER_MEMORY = 5 };

struct mps_client_device {
    bool usable;
    unsigned int device; /* the server's number of it */
    unsigned int granted;
    struct client_memory memory;
};

struct mps_context {
    bool exists;
    uint32_t id;
    unsigned int device; /* the client's number of it */
};

struct mps_client {
    int socket; /* -1: the place is free */
    bool terminated;
    struct mps_process process;
    uint32_t next_context;
    unsigned int device_count;
    struct mps_client_device devices[DEVICES_MAX];
    struct mps_context contexts[MPS_MAX_CONTEXTS];
};

struct mps_server_state {
    struct mps_log log;
    struct inventory inventory;
    struct device devices[DEVICES_MAX];
    struct device_memory memory[DEVICES_MAX];
    unsigned int device_count;
    int memory_file; /* -1: nothing is published */
    struct memory_record published;
    struct mps_settings settings;
    uint32_t next_client;
    struct mps_client clients[MPS_MAX_CLIENTS];
};

/* Tells NVML what is in use, if that has changed. */
void mps_server_publish(struct mps_server_state *server);

/* mps_clients.c */
void mps_client_accept(struct mps_server_state *server, const struct mps_hello *hello, int socket);
/* Serves one request, if one has arrived: no client keeps the others waiting. */
void mps_client_receive(struct mps_server_state *server, struct mps_client *client);
void mps_client_terminate(struct mps_server_state *server, int32_t pid);

#endif
