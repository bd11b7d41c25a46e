module dra-workshop/toolchain/runc-bounded

go 1.26.0
