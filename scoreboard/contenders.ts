/** The columns of the scoreboard. */
import type { ServerKind } from './messages.ts'
import { routes, tus, type Wire } from './wires.ts'

export interface Contender {
  readonly name: string
  readonly title: string
  readonly kind: ServerKind
  readonly wire: Wire
  readonly storage: 'disk' | 's3'
  readonly isOurs: boolean
  /** Files that hold what the server knows of an upload, not its bytes. `null`: there are none on this machine. */
  readonly stateFiles: RegExp | null
  /** Why nothing expires here; `null` when it does. */
  readonly keepsAll: string | null
}

const ours = { isOurs: true, keepsAll: null, stateFiles: /^temp\/sessions\/.*\.log$/ } as const
const theirs = { isOurs: false, keepsAll: null } as const

export const contenders: readonly Contender[] = [
  { ...ours, name: 'ours-tus', title: 'this package, tus', kind: 'ours-tus', wire: tus, storage: 'disk' },
  { ...ours, name: 'ours-routes', title: 'this package, routes', kind: 'ours-routes', wire: routes, storage: 'disk' },
  { ...ours, name: 'ours-tus-s3', title: 'this package, tus, S3', kind: 'ours-tus', wire: tus, storage: 's3' },
  {
    ...{
      ...theirs,
      name: 'tus-file',
      title: '@tus/server, file-store',
      kind: 'tus-server',
      wire: tus,
      storage: 'disk',
    },
    stateFiles: /\.json$/,
  },
  {
    ...{ ...theirs, name: 'tus-s3', title: '@tus/server, s3-store', kind: 'tus-server', wire: tus, storage: 's3' },
    stateFiles: null,
  },
  {
    ...{ ...theirs, name: 'uploadx', title: '@uploadx/core, tus', kind: 'uploadx', wire: tus, storage: 'disk' },
    stateFiles: /\.META$/,
  },
  {
    ...{ ...theirs, name: 'multer', title: 'multer + joining', kind: 'multer', wire: routes, storage: 'disk' },
    stateFiles: null,
    keepsAll: 'nothing expires here',
  },
]
