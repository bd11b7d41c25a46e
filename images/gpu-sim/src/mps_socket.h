/* Sockets of MPS: packets of one fixed size, so that no reader can be made to wait for the rest of one. */
#ifndef GPU_SIM_MPS_SOCKET_H
#define GPU_SIM_MPS_SOCKET_H

#include "mps_protocol.h"

/* Both return -1 and set errno on failure. */
int mps_connect(const char *name);
int mps_listen(const char *name, unsigned int mode);

struct mps_message mps_message(enum mps_kind kind);

/* Sends the message and, unless it is -1, a file descriptor. Without wait, a full socket is a failure. */
bool mps_send(int socket, const struct mps_message *message, int passed, bool wait);

enum mps_received { MPS_RECEIVED, MPS_NOTHING_YET, MPS_CLOSED, MPS_GARBAGE };

/* Checks form, version and texts; passed may be NULL, otherwise it is set to a descriptor or -1. */
enum mps_received mps_receive(int socket, struct mps_message *message, int *passed, bool wait);

#endif
