/* The file <pipe directory>/server_memory.<pid> by which an MPS server tells NVML in other processes what it and its
   clients hold. Real drivers need none: the kernel knows. The form is the simulation's own.

   It holds two equal memory records. The server writes one after the other, in place, so that one of them is whole
   whenever somebody reads. It cannot replace the file by another: a server runs as its clients' user, who may have no
   right to write in the directory. So the daemon makes the file, as its own user, and removes it.

   The server holds a lock on it for its life: a file without one is a dead server's. Only who may write a file can
   hold such a lock, and asking for it takes none, so no reader can pretend that a server lives, or disturb one.

   Nobody but the daemon's user can write the file (0644; the server has it open), nor put another in its place as
   long as the directory is that user's with mode 0755, as the daemon makes it. Where others may write in the
   directory, they can replace everything there, the daemon's sockets first. A file of another user than the socket's
   does not count; that also covers a directory in which everyone may create files (1777). */
#ifndef GPU_SIM_MPS_MEMORY_H
#define GPU_SIM_MPS_MEMORY_H

#include "memory_record.h"

#include <sys/types.h>

#define MPS_MEMORY_PREFIX "server_memory."

/* Makes and locks the file of the server with that pid; -1 with errno on failure. */
int mps_memory_create(pid_t server);
void mps_memory_remove(pid_t server);
/* Removes what killed daemons left. Their servers end with them, so the caller has to hold the directory's lock. */
void mps_memory_remove_all(void);

/* False with errno if the file could not be written. */
bool mps_memory_publish(int file, const struct memory_record *record);

#endif
