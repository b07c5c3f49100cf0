// Program rules says what kube-proxy's own code decides of Services, for a test that compares it with `lb services`.
//
// A line of standard input is a world: {"node": "n1", "zone": "z1", "nodeAddresses": ["10.0.0.1/24"],
// "nodePortAddresses": [], "services": [...], "slices": [...]}, with objects as the API server serves them. A line of
// standard output has its Service ports in the fields of `lb services -o json`.
package main

import (
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"os"
	"strconv"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/proxy"
	"k8s.io/kubernetes/pkg/proxy/apis"
	proxyutil "k8s.io/kubernetes/pkg/proxy/util"
)

type world struct {
	Node              string                     `json:"node"`
	Zone              string                     `json:"zone"`
	NodeAddresses     interfaces                 `json:"nodeAddresses"`
	NodePortAddresses []string                   `json:"nodePortAddresses"`
	Services          []*v1.Service              `json:"services"`
	Slices            []*discovery.EndpointSlice `json:"slices"`
}

type interfaces []string

func (addresses interfaces) InterfaceAddrs() ([]net.Addr, error) {
	var found []net.Addr
	for _, address := range addresses {
		ip, network, err := net.ParseCIDR(address)
		if err != nil {
			return nil, err
		}
		found = append(found, &net.IPNet{IP: ip, Mask: network.Mask})
	}
	return found, nil
}

type row struct {
	Namespace             string       `json:"namespace"`
	Name                  string       `json:"name"`
	PortName              string       `json:"portName"`
	Protocol              string       `json:"protocol"`
	Family                string       `json:"family"`
	Frontends             []frontend   `json:"frontends"`
	ClusterEndpoints      []string     `json:"clusterEndpoints"`
	LocalEndpoints        []string     `json:"localEndpoints"`
	InternalTrafficPolicy string       `json:"internalTrafficPolicy"`
	ExternalTrafficPolicy string       `json:"externalTrafficPolicy"`
	SessionAffinity       affinity     `json:"sessionAffinity"`
	SourceRanges          []string     `json:"sourceRanges"`
	NodePortAddresses     []string     `json:"nodePortAddresses"`
	HealthCheck           *healthCheck `json:"healthCheck"`
}

type frontend struct {
	Kind    string            `json:"kind"`
	Address string            `json:"address"`
	Clients map[string]string `json:"clients"`
}

type affinity struct {
	Type           string `json:"type"`
	TimeoutSeconds *int   `json:"timeoutSeconds"`
}

type healthCheck struct {
	Port           int `json:"port"`
	LocalEndpoints int `json:"localEndpoints"`
}

func main() {
	// It says of each odd object that it is odd.
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	input, output := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var given world
		err := input.Decode(&given)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			log.Fatal(err)
		}
		rows := []row{}
		for _, family := range []v1.IPFamily{v1.IPv4Protocol, v1.IPv6Protocol} {
			rows = append(rows, given.rows(family)...)
		}
		if err := output.Encode(rows); err != nil {
			log.Fatal(err)
		}
	}
}

func (given *world) rows(family v1.IPFamily) []row {
	services := proxy.NewServiceChangeTracker(family, nil, nil)
	for _, service := range given.Services {
		// What its informer does not ask for (cmd/kube-proxy/app/server.go).
		if _, other := service.Labels[apis.LabelServiceProxyName]; !other && service.Spec.ClusterIP != v1.ClusterIPNone {
			services.Update(nil, service)
		}
	}
	slices := proxy.NewEndpointsChangeTracker(family, given.Node, nil, nil)
	for _, slice := range given.Slices {
		if _, headless := slice.Labels[v1.IsHeadlessService]; !headless {
			slices.EndpointSliceUpdate(slice, false)
		}
	}
	ports, endpoints := proxy.ServicePortMap{}, proxy.EndpointsMap{}
	ports.Update(services)
	endpoints.Update(slices)
	checks, counts := ports.HealthCheckNodePorts(), endpoints.LocalReadyEndpoints()
	addresses, err := proxyutil.NewNodePortAddresses(family, given.NodePortAddresses).GetNodeIPs(given.NodeAddresses)
	if err != nil {
		log.Fatal(err)
	}
	labels := map[string]string{}
	if given.Zone != "" {
		labels[v1.LabelTopologyZone] = given.Zone
	}

	var rows []row
	for name, port := range ports {
		cluster, local, _, hasAny := proxy.CategorizeEndpoints(endpoints[name], port, given.Node, labels)
		found := row{
			Namespace:             name.Namespace,
			Name:                  name.Name,
			PortName:              name.Port,
			Protocol:              string(name.Protocol),
			Family:                string(family),
			Frontends:             frontends(port, family, outcome(cluster, local, hasAny)),
			ClusterEndpoints:      texts(cluster),
			LocalEndpoints:        texts(local),
			InternalTrafficPolicy: policy(port.InternalPolicyLocal()),
			ExternalTrafficPolicy: policy(port.ExternalPolicyLocal()),
			SessionAffinity:       affinity{Type: string(port.SessionAffinityType())},
			SourceRanges:          []string{},
			NodePortAddresses:     []string{},
		}
		if port.SessionAffinityType() == v1.ServiceAffinityClientIP {
			seconds := port.StickyMaxAgeSeconds()
			found.SessionAffinity.TimeoutSeconds = &seconds
		}
		for _, prefix := range port.LoadBalancerSourceRanges() {
			found.SourceRanges = append(found.SourceRanges, prefix.String())
		}
		for _, ip := range addresses {
			// Of the other family come those that a list does not name; the proxiers leave loopback out.
			if port.NodePort() != 0 && (ip.To4() != nil) == (family == v1.IPv4Protocol) && !ip.IsLoopback() {
				found.NodePortAddresses = append(found.NodePortAddresses, ip.String())
			}
		}
		if number, ok := checks[name.NamespacedName]; ok {
			found.HealthCheck = &healthCheck{Port: int(number), LocalEndpoints: counts[name.NamespacedName]}
		}
		rows = append(rows, found)
	}
	return rows
}

// What the proxiers make of the sets, by policy: pkg/proxy/nftables/proxier.go.
func outcome(cluster, local []proxy.Endpoint, hasAny bool) func(isLocal bool) string {
	return func(isLocal bool) string {
		switch {
		case !hasAny:
			return "reject"
		case !isLocal:
			return "cluster"
		case len(local) == 0:
			return "drop"
		default:
			return "local"
		}
	}
}

func frontends(port proxy.ServicePort, family v1.IPFamily, outcome func(isLocal bool) string) []frontend {
	var found []frontend
	add := func(kind string, ip net.IP, number int, inside, outside string) {
		address := net.JoinHostPort(ip.String(), strconv.Itoa(number))
		clients := map[string]string{"pod": inside, "host": inside, "outside": outside}
		found = append(found, frontend{kind, address, clients})
	}
	internal := outcome(port.InternalPolicyLocal())
	add("ClusterIP", port.ClusterIP(), port.Port(), internal, internal)
	// From inside the cluster, the external policy does not count.
	inside, outside := outcome(false), outcome(port.ExternalPolicyLocal())
	if port.NodePort() != 0 {
		unspecified := net.IPv4zero
		if family == v1.IPv6Protocol {
			unspecified = net.IPv6unspecified
		}
		add("NodePort", unspecified, port.NodePort(), inside, outside)
	}
	for _, ip := range port.LoadBalancerVIPs() {
		add("LoadBalancer", ip, port.Port(), inside, outside)
	}
	for _, ip := range port.ExternalIPs() {
		add("ExternalIP", ip, port.Port(), inside, outside)
	}
	return found
}

func policy(isLocal bool) string {
	if isLocal {
		return "Local"
	}
	return "Cluster"
}

func texts(endpoints []proxy.Endpoint) []string {
	found := []string{}
	for _, endpoint := range endpoints {
		found = append(found, endpoint.String())
	}
	return found
}
