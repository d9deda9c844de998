/**
 * What a power cut may leave of a folder, from the system calls that were made in it. Nothing is sure but what was
 * flushed: bytes by a flush of their file, names by a flush of their folder, each begun after the change had been made. Of
 * everything else any selection may be there, and a write may be there by half.
 */
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { bytesOf, descriptorOf, type SystemCall, writtenBy } from './system-calls.ts'

interface Node {
  readonly kind: 'file' | 'folder' | 'link'
  readonly target: Buffer | null
  /** Changes of bytes, or of names, in order. */
  readonly changes: Change[]
  readonly entries: Map<string, Node>
  size: number
}

interface Change {
  readonly at: number
  readonly bytes?: { readonly data: Buffer; readonly position: number }
  readonly truncate?: number
  readonly name?: { readonly name: string; readonly node: Node | null }
  /** A rename is one change: its two names come and go together. */
  readonly pair?: Change
  /** When it was on the disk for certain. */
  flushed: number
  /** A flush of it failed: no other one brings it to the disk. */
  lost?: boolean
}

/** What of the changes that were not flushed is there. */
export interface Selection {
  keeps(): boolean
  /** How many of the bytes of a write, of `size`. */
  tears(size: number): number
  /** Whether the file has become longer by a write, and what was written is not there. */
  blanks(): boolean
}

export const nothingMore: Selection = { keeps: () => false, tears: (size) => size, blanks: () => false }
export const everything: Selection = { keeps: () => true, tears: (size) => size, blanks: () => false }

export class DiskHistory {
  readonly #root: string
  readonly #top = makeNode('folder')
  readonly #open = new Map<number, Node>()
  readonly #appending = new Set<number>()
  /** Calls that flushed something. */
  flushes = 0
  failedFlushes = 0
  /** When each answer began to be written: by the client's port. */
  readonly answers = new Map<number, { at: number; status: number }>()
  /** When anything changed or was flushed. */
  readonly moments: number[] = []

  /** @param root an empty folder, which is certain to be there */
  constructor(root: string, calls: readonly SystemCall[]) {
    this.#root = root
    // A flush holds for what was done when it began, and counts from when it ended.
    for (const call of calls) this.#take(call)
    this.moments.sort((a, b) => a - b)
  }

  /** Writes what is there after a power cut just before the moment `at` into an empty folder. */
  materialize(at: number, into: string, selection: Selection): void {
    const chosen = new Map<Change, boolean>()
    const holds = (change: Change): boolean => {
      if (change.at >= at) return false
      if (change.flushed < at || (change.pair && change.pair.flushed < at)) return true
      const first = change.pair && chosen.has(change.pair) ? change.pair : change
      const known = chosen.get(first)
      if (known !== undefined) return known
      const kept = selection.keeps()
      chosen.set(first, kept)
      return kept
    }
    const put = (node: Node, path: string): void => {
      if (node.kind === 'link') symlinkSync(node.target ?? Buffer.alloc(0), path)
      else if (node.kind === 'file') writeFileSync(path, contentOf(node, at, holds, selection), { mode: 0o600 })
      else {
        if (node !== this.#top) mkdirSync(path, { mode: 0o700 })
        const entries = new Map<string, Node>()
        for (const change of node.changes) {
          if (!change.name || !holds(change)) continue
          if (change.name.node) entries.set(change.name.name, change.name.node)
          else entries.delete(change.name.name)
        }
        for (const [name, entry] of entries) put(entry, join(path, name))
      }
    }
    put(this.#top, into)
  }

  #take(call: SystemCall): void {
    const { name, args, begun, ended } = call
    if (call.result < 0) {
      if (name === 'fsync' || name === 'fdatasync') this.#failFlush(call)
      return
    }
    if (/^(write|writev|sendto|sendmsg)$/.test(name) && this.#answer(call)) return
    if (/^p?write/.test(name)) this.#write(call)
    else if (name === 'fsync' || name === 'fdatasync') this.#flush(args[0], begun, ended)
    else if (name === 'openat' || name === 'open') this.#openFile(call)
    else if (/^(creat|fallocate|copy_file_range|sendfile)$/.test(name)) this.#refuse(call)
    else if (/truncate$/.test(name)) this.#truncate(call)
    else if (/^mkdir/.test(name)) this.#setName(call, pathIn(args), makeNode('folder'))
    else if (/^(unlink|rmdir)/.test(name)) this.#setName(call, pathIn(args), null)
    else if (/^symlink/.test(name)) this.#setName(call, pathOf(args.at(-1)), makeNode('link', bytesOf(args[0])))
    else if (/^link/.test(name)) this.#link(call)
    else if (/^rename/.test(name)) this.#rename(call)
  }

  #answer(call: SystemCall): boolean {
    const [, port] = /^TCP:\[.*->.*:(\d+)\]$/.exec(descriptorOf(call.args[0]).of) ?? []
    if (port === undefined) return false
    const data = call.args[1]?.replace(/^\[?\{?(iov_base=)?/, '') ?? ''
    const [, status] = /^"HTTP\/1\.1 ([2-5]\d\d)/.exec(data) ?? []
    if (status !== undefined) this.answers.set(Number(port), { at: call.begun, status: Number(status) })
    return true
  }

  #openFile(call: SystemCall): void {
    const path = pathOf(call.args[call.name === 'open' ? 0 : 1])
    const flags = call.args[call.name === 'open' ? 1 : 2] ?? ''
    this.#open.delete(call.result)
    this.#appending.delete(call.result)
    let node = this.#find(path)
    if (node === null) {
      if (!flags.includes('O_CREAT') || !this.#isInside(path)) return
      node = makeNode('file')
      this.#setName(call, path, node)
    }
    this.#open.set(call.result, node)
    if (flags.includes('O_APPEND')) this.#appending.add(call.result)
    if (flags.includes('O_TRUNC') && node.size > 0) this.#change(node, call, { truncate: 0 })
  }

  #write(call: SystemCall): void {
    const { fd, of } = descriptorOf(call.args[0])
    const node = of.startsWith(`${this.#root}/`) ? this.#open.get(fd) : undefined
    if (!node) return
    const positional = call.name.startsWith('p')
    // Streams of this library write at positions, or from the start to the end.
    const position = positional && !this.#appending.has(fd) ? Number(call.args[positional ? 3 : 2]) : node.size
    const data = writtenBy(call)
    node.size = Math.max(node.size, position + data.length)
    this.#change(node, call, { bytes: { data, position } })
  }

  #truncate(call: SystemCall): void {
    const node =
      call.name === 'truncate' ? this.#find(pathOf(call.args[0])) : this.#open.get(descriptorOf(call.args[0]).fd)
    if (!node) return
    node.size = Number(call.args[1])
    this.#change(node, call, { truncate: node.size })
  }

  #flush(arg: string | undefined, begun: number, ended: number): void {
    const { fd, of } = descriptorOf(arg)
    const node = of === this.#root ? this.#top : of.startsWith(`${this.#root}/`) ? this.#open.get(fd) : undefined
    if (!node) return
    this.flushes += 1
    this.moments.push(ended + 0.5)
    for (const change of node.changes) {
      if (change.at < begun && ended < change.flushed && !change.lost) change.flushed = ended
    }
  }

  /**
   * The system takes the bytes for written from then on, and the next flush, which finds nothing to do, succeeds. Names are
   * in the journal of the file system, which ends for good when it cannot be written.
   */
  #failFlush({ args, begun }: SystemCall): void {
    const { fd, of } = descriptorOf(args[0])
    this.failedFlushes += 1
    const node = of.startsWith(`${this.#root}/`) ? this.#open.get(fd) : undefined
    if (node?.kind !== 'file') return
    for (const change of node.changes) {
      if (change.at < begun && change.flushed === Number.POSITIVE_INFINITY) change.lost = true
    }
  }

  #link(call: SystemCall): void {
    const [from, to] = call.name === 'link' ? [call.args[0], call.args[1]] : [call.args[1], call.args[3]]
    const node = this.#find(pathOf(from))
    if (node) this.#setName(call, pathOf(to), node)
  }

  #rename(call: SystemCall): void {
    const [from, to] = call.name === 'rename' ? [call.args[0], call.args[1]] : [call.args[1], call.args[3]]
    const node = this.#find(pathOf(from))
    if (!node) return
    const gone = this.#setName(call, pathOf(from), null)
    this.#setName(call, pathOf(to), node, gone)
  }

  #setName(call: SystemCall, path: string, node: Node | null, pair?: Change): Change | undefined {
    const folder = this.#find(dirname(path))
    if (!folder) return undefined
    const name = path.slice(dirname(path).length + 1)
    if (node) folder.entries.set(name, node)
    else folder.entries.delete(name)
    return this.#change(folder, call, { name: { name, node }, ...(pair && { pair }) })
  }

  #change(node: Node, { ended }: SystemCall, what: Partial<Change>): Change {
    const change: Change = { at: ended, flushed: Number.POSITIVE_INFINITY, ...what }
    node.changes.push(change)
    this.moments.push(ended + 0.5)
    return change
  }

  #isInside(path: string): boolean {
    return path === this.#root || path.startsWith(`${this.#root}/`)
  }

  #find(path: string): Node | null {
    if (!this.#isInside(path)) return null
    let node: Node | undefined = this.#top
    for (const name of path.slice(this.#root.length + 1).split('/')) {
      if (name !== '') node = node?.entries.get(name)
    }
    return node ?? null
  }

  #refuse(call: SystemCall): void {
    const touches = call.args.some((arg) => arg.includes(`${this.#root}/`))
    if (touches) throw new Error(`${call.name} changes files in a way that this history does not know`)
  }
}

function makeNode(kind: Node['kind'], target: Buffer | null = null): Node {
  return { kind, target, changes: [], entries: new Map(), size: 0 }
}

function pathOf(arg: string | undefined): string {
  return bytesOf(arg).toString()
}

/** Of `call(path, …)` or `callat(folder, path, …)`; Node gives whole paths only. */
function pathIn(args: readonly string[]): string {
  return pathOf(args.find((arg) => arg.startsWith('"')))
}

function contentOf(node: Node, at: number, holds: (change: Change) => boolean, selection: Selection): Buffer {
  let content = Buffer.alloc(0)
  for (const change of node.changes) {
    if (!holds(change)) continue
    if (change.truncate !== undefined)
      content = Buffer.concat([content, Buffer.alloc(change.truncate)], change.truncate)
    if (!change.bytes) continue
    const { data, position } = change.bytes
    const size = change.flushed < at ? data.length : selection.tears(data.length)
    const end = position + size
    if (end > content.length) content = Buffer.concat([content, Buffer.alloc(end - content.length)])
    if (change.flushed < at || !selection.blanks()) data.copy(content, position, 0, size)
  }
  return content
}
