package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// identity is who the server runs as. PostgreSQL refuses root.
type identity struct {
	uid, gid  int
	drop      bool // change to uid and gid, which are not ours
	namespace bool // run in a user namespace in which we are called uid and gid
}

// place is where a cluster goes and who it belongs to.
type place struct {
	identity
	parent   string // folder that gets the cluster's folder
	relocate bool   // the server's programs are out of that identity's reach and must come along
}

// choosePlace finds an identity that can run the program and reach the folder parent. It tries rather than reasons: what stands in the way
// of another user may be a mode, an ACL, a mount option or a security module. Where nobody can and there are no user namespaces (a clone
// under /root in a container), the cluster goes to a folder for temporary files instead.
func choosePlace(ctx context.Context, program, parent string) (place, error) {
	if os.Geteuid() != 0 {
		self := identity{uid: os.Geteuid(), gid: os.Getegid()}
		if _, err := user.LookupId(strconv.Itoa(self.uid)); err == nil {
			return place{identity: self, parent: parent}, nil
		}
		// initdb insists on a name for its user, which a container's arbitrary uid has none of.
	}
	accounts := ordinaryAccounts()
	var dropped, inNamespace []identity
	for _, account := range accounts {
		if os.Geteuid() == 0 {
			dropped = append(dropped, identity{uid: account.uid, gid: account.gid, drop: true})
		}
		inNamespace = append(inNamespace, identity{uid: account.uid, gid: account.gid, namespace: true})
	}
	id, err := firstThatCan(ctx, append(dropped, inNamespace...), program, parent)
	if err == nil {
		return place{identity: id, parent: parent}, nil
	}
	for _, temporary := range []string{os.TempDir(), "/tmp", "/var/tmp"} {
		if id, err := firstThatCan(ctx, dropped, program, temporary); err == nil {
			return place{identity: id, parent: temporary}, nil
		}
		prefix := filepath.Dir(filepath.Dir(program))
		if id, err := firstThatCan(ctx, dropped, "/bin/true", temporary); err == nil && isDir(filepath.Join(prefix, "share")) {
			return place{identity: id, parent: temporary, relocate: true}, nil
		}
	}
	return place{}, rowcast.Errorf(rowcast.CodeUnavailable, "PostgreSQL does not run as root, and no other user can use %s", parent).
		WithDetail("%v", err).
		WithHint("Move the project to a folder that other users can enter, run as an ordinary user, or set DATABASE_URL.")
}

func firstThatCan(ctx context.Context, ids []identity, program, dir string) (identity, error) {
	err := errors.New("no account to run as")
	for _, id := range ids {
		if err = id.try(ctx, program, dir); err == nil {
			return id, nil
		}
	}
	return identity{}, err
}

// ordinaryAccounts are the accounts that a server may be given to: the one behind sudo, PostgreSQL's own, and those that every system has.
func ordinaryAccounts() []identity {
	var ids []identity
	for _, name := range []string{os.Getenv("SUDO_USER"), "postgres", "nobody", "daemon"} {
		u, err := user.Lookup(name)
		if name == "" || err != nil {
			continue
		}
		uid, errUID := strconv.Atoi(u.Uid)
		gid, errGID := strconv.Atoi(u.Gid)
		if errUID == nil && errGID == nil && uid != 0 {
			ids = append(ids, identity{uid: uid, gid: gid})
		}
	}
	return ids
}

func (id identity) try(ctx context.Context, program, dir string) error {
	cmd := exec.CommandContext(ctx, program, "--version")
	cmd.Dir = dir
	cmd.SysProcAttr = id.attributes()
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("uid %d: %w", id.uid, err)
	}
	return nil
}

// attributes are the process attributes that make a child run as this identity.
func (id identity) attributes() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{}
	switch {
	case id.drop:
		attr.Credential = &syscall.Credential{Uid: uint32(id.uid), Gid: uint32(id.gid)}
	case id.namespace:
		attr.Cloneflags = syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: id.uid, HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: id.gid, HostID: os.Getegid(), Size: 1}}
	}
	return attr
}

// own gives a file or folder to the identity.
func (id identity) own(path string) error {
	if !id.drop {
		return nil
	}
	return os.Chown(path, id.uid, id.gid)
}
