module dra-workshop/toolchain/pause

go 1.26.0
