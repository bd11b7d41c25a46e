/* Where an MPS daemon, its servers and its clients meet: what CUDA's environment variables say, or its defaults. */
#ifndef GPU_SIM_MPS_DIRECTORIES_H
#define GPU_SIM_MPS_DIRECTORIES_H

/* CUDA_MPS_PIPE_DIRECTORY and CUDA_MPS_LOG_DIRECTORY. */
const char *mps_pipe_directory(void);
const char *mps_log_directory(void);

#endif
