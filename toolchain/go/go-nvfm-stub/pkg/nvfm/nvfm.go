// Package nvfm is a stand-in for github.com/NVIDIA/go-nvfm v0.1.0, which the Go module proxy does not serve.
//
// It has only the names that sigs.k8s.io/dra-driver-nvidia-gpu/pkg/fabricmanager uses. Every call fails, so the
// feature gate FabricManagerPartitioning cannot work in a build with this stub.
package nvfm

type Return int32

const (
	SUCCESS      Return = 0
	notSupported Return = -5
)

func (r Return) Error() string { return r.String() }
func (r Return) String() string {
	if r == SUCCESS {
		return "success"
	}
	return "Fabric Manager support is not in this build (stub of go-nvfm)"
}

type FabricPartitionId uint32
type FabricPartitionGpuInfo struct {
	PhysicalId                                             uint32
	Uuid                                                   [80]int8
	PciBusId                                               [32]int8
	NumNvLinksAvailable, MaxNumNvLinks, NvlinkLineRateMBps uint32
}
type FabricPartitionInfo struct {
	PartitionId, IsActive, NumGpus uint32
	GpuInfo                        [16]FabricPartitionGpuInfo
}
type FabricPartitionList struct {
	NumPartitions uint32
	PartitionInfo [64]FabricPartitionInfo
}
type LibraryOption func()
type ConnectOption func()

func WithLibraryPath(string) LibraryOption { return func() {} }
func WithUnixSocket(string) ConnectOption  { return func() {} }
func WithAddress(string) ConnectOption     { return func() {} }
func WithTimeoutMs(uint32) ConnectOption   { return func() {} }

type Handle interface {
	GetSupportedFabricPartitions() (FabricPartitionList, Return)
	ActivateFabricPartition(FabricPartitionId) Return
	DeactivateFabricPartition(FabricPartitionId) Return
	Disconnect() Return
}
type Interface interface {
	Init() Return
	Shutdown() Return
	Connect(...ConnectOption) (Handle, Return)
}
type lib struct{}

func New(...LibraryOption) Interface                  { return lib{} }
func (lib) Init() Return                              { return notSupported }
func (lib) Shutdown() Return                          { return SUCCESS }
func (lib) Connect(...ConnectOption) (Handle, Return) { return nil, notSupported }
