package postgres

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
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

// chooseIdentity finds an identity that can run the program and reach the folder parent. It tries rather than reasons: what stands in the way
// of another user may be a mode, an ACL, a mount option or a security module.
func chooseIdentity(ctx context.Context, program, parent string) (identity, error) {
	if os.Geteuid() != 0 {
		self := identity{uid: os.Geteuid(), gid: os.Getegid()}
		if _, err := user.LookupId(strconv.Itoa(self.uid)); err == nil {
			return self, nil
		}
		// initdb insists on a name for its user, which a container's arbitrary uid has none of.
	}
	accounts := ordinaryAccounts()
	var last error
	if os.Geteuid() == 0 {
		for _, account := range accounts {
			account.drop = true
			if last = account.try(ctx, program, parent); last == nil {
				return account, nil
			}
		}
	}
	for _, account := range accounts {
		account.namespace = true
		if last = account.try(ctx, program, parent); last == nil {
			return account, nil
		}
	}
	return identity{}, rowcast.Errorf(rowcast.CodeUnavailable, "PostgreSQL does not run as root, and no other user can use %s", parent).
		WithDetail("%v", last).
		WithHint("Move the project to a folder that other users can enter, run as an ordinary user, or set DATABASE_URL.")
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
