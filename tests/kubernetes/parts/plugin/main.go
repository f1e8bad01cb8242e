// Command plugin offers GPUs that are not there to one kubelet, through the kubelet's public interface for device plugins.
//
// It registers anew whenever the kubelet does: a kubelet that starts removes all sockets of plugins. A device whose id
// stands in the file of broken ones (one per line) is said to be unhealthy within half a second.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

const lookEvery = 500 * time.Millisecond

type plugin struct {
	api.UnimplementedDevicePluginServer
	resource, prefix, broken string
	count                    int
}

func (p *plugin) GetDevicePluginOptions(context.Context, *api.Empty) (*api.DevicePluginOptions, error) {
	return &api.DevicePluginOptions{}, nil
}

// ListAndWatch tells all devices at first, and again whenever the health of one has changed.
func (p *plugin) ListAndWatch(_ *api.Empty, stream grpc.ServerStreamingServer[api.ListAndWatchResponse]) error {
	var told []string
	for first := true; ; first = false {
		if broken := p.brokenIDs(); first || !slices.Equal(broken, told) {
			if err := stream.Send(&api.ListAndWatchResponse{Devices: p.devices(broken)}); err != nil {
				return err
			}
			told = broken
		}
		select {
		case <-stream.Context().Done():
			return nil
		case <-time.After(lookEvery):
		}
	}
}

// Allocate answers as NVIDIA's plugin does with device files: the ids in NVIDIA_VISIBLE_DEVICES, and a device file each.
func (p *plugin) Allocate(_ context.Context, asked *api.AllocateRequest) (*api.AllocateResponse, error) {
	answer := &api.AllocateResponse{}
	for _, container := range asked.ContainerRequests {
		one := &api.ContainerAllocateResponse{
			Envs: map[string]string{"NVIDIA_VISIBLE_DEVICES": strings.Join(container.DevicesIds, ",")},
		}
		for _, id := range container.DevicesIds {
			one.Devices = append(one.Devices, &api.DeviceSpec{
				HostPath: "/dev/null", ContainerPath: "/dev/nvidia" + strings.TrimPrefix(id, p.prefix), Permissions: "rw",
			})
		}
		answer.ContainerResponses = append(answer.ContainerResponses, one)
	}
	return answer, nil
}

func (p *plugin) brokenIDs() []string {
	text, err := os.ReadFile(p.broken)
	if err != nil {
		return nil
	}
	ids := strings.Fields(string(text))
	slices.Sort(ids)
	return ids
}

func (p *plugin) devices(broken []string) []*api.Device {
	devices := make([]*api.Device, p.count)
	for number := range devices {
		id := fmt.Sprintf("%s%d", p.prefix, number)
		devices[number] = &api.Device{ID: id, Health: api.Healthy}
		if slices.Contains(broken, id) {
			devices[number].Health = api.Unhealthy
		}
	}
	return devices
}

// serve registers and answers until the kubelet has started anew.
func (p *plugin) serve(folder, name string) error {
	socket, kubelet := filepath.Join(folder, name), filepath.Join(folder, "kubelet.sock")
	before, err := os.Stat(kubelet)
	if err != nil {
		return err
	}
	os.Remove(socket)
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	api.RegisterDevicePluginServer(server, p)
	go server.Serve(listener)
	defer server.Stop()
	if err := p.register(kubelet, name); err != nil {
		return err
	}
	log.Printf("registered %d of %s", p.count, p.resource)
	for {
		time.Sleep(lookEvery)
		now, err := os.Stat(kubelet)
		if err != nil || !os.SameFile(before, now) || !now.ModTime().Equal(before.ModTime()) {
			return fmt.Errorf("the kubelet is not the one of before")
		}
		if _, err := os.Stat(socket); err != nil {
			return err
		}
	}
}

func (p *plugin) register(kubelet, name string) error {
	connection, err := grpc.NewClient("unix://"+kubelet, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	within, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	asked := &api.RegisterRequest{Version: api.Version, Endpoint: name, ResourceName: p.resource}
	_, err = api.NewRegistrationClient(connection).Register(within, asked)
	return err
}

func main() {
	p := &plugin{}
	folder := flag.String("folder", api.DevicePluginPath, "where the kubelet's socket is")
	flag.StringVar(&p.resource, "resource", "nvidia.com/gpu", "name of the resource")
	flag.StringVar(&p.prefix, "prefix", "GPU-", "what the ids begin with; a number follows")
	flag.StringVar(&p.broken, "broken", "", "file with the ids of broken devices")
	flag.IntVar(&p.count, "count", 4, "how many")
	flag.Parse()
	name := strings.NewReplacer("/", "-", ".", "-").Replace(p.resource) + ".sock"
	for {
		log.Print(p.serve(*folder, name))
		time.Sleep(lookEvery)
	}
}
