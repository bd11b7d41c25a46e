module dra-workshop/toolchain/mps-daemon

go 1.26.0
