/** The client libraries that are tried, and what is special about each. */
import type { Exchange } from '../../scripts/demo/line.ts'

export interface Look {
  readonly method: string
  readonly path: string
  readonly headers?: Record<string, string>
  /** The status that says that there is no such upload. */
  readonly absent: number
}

/** Each runs in a process of its own. */
export type Group = 'chunks' | 'uppy' | 's3'

export interface Client {
  readonly name: string
  readonly group: Group
  /** `pages/<page>.page.ts` */
  readonly page: string
  /** Whether its page goes on after a reload when the file is chosen again. */
  readonly resumes: boolean
  /** What its page adds, as the documents recommend, where the library's defaults give up on a short outage. */
  readonly patience: string | null
  /** How its page tells that the type of a file is refused. */
  readonly refusedType: RegExp
  /** How to ask for the upload that these requests belong to. */
  readonly look: ((exchanges: readonly Exchange[]) => Look) | null
}

/** The server's words. */
const refusedType = /Files of type application\/octet-stream are not accepted/
const retries = 'tries again by itself when it gave up'

export const clients: readonly Client[] = [
  {
    name: 'Our client',
    group: 'chunks',
    page: 'own-client',
    resumes: true,
    patience: null,
    refusedType,
    look: progressOf,
  },
  {
    name: 'Uppy Tus',
    group: 'uppy',
    page: 'uppy-tus',
    resumes: true,
    patience: null,
    refusedType,
    look: (exchanges) => ({
      method: 'HEAD',
      path: find(exchanges, 'PATCH', /^\/files\/[^/]+$/),
      headers: { 'Tus-Resumable': '1.0.0' },
      absent: 404,
    }),
  },
  {
    name: 'Uppy XHR',
    group: 'uppy',
    page: 'uppy-xhr',
    resumes: false,
    patience: retries,
    refusedType,
    look: null,
  },
  {
    name: 'Resumable.js',
    group: 'chunks',
    page: 'resumable',
    resumes: true,
    patience: 'waits a second between attempts: chunkRetryInterval',
    refusedType,
    look: firstChunkOf,
  },
  {
    name: 'Flow.js',
    group: 'chunks',
    page: 'flow',
    resumes: true,
    patience: 'tries more than once: maxChunkRetries, chunkRetryInterval',
    refusedType,
    look: firstChunkOf,
  },
  {
    name: 'Uppy AwsS3 v5, in parts',
    group: 's3',
    page: 'uppy-s3-v5',
    resumes: true,
    patience: null,
    refusedType,
    look: partsOf,
  },
  {
    name: 'Uppy AwsS3 v5, by form',
    group: 's3',
    page: 'uppy-s3-v5-form',
    resumes: false,
    patience: retries,
    refusedType,
    look: null,
  },
  {
    name: 'Uppy AwsS3 v6, in parts',
    group: 's3',
    page: 'uppy-s3-v6',
    resumes: true,
    patience: retries,
    // It shows no more of what these routes answer than the status.
    refusedType: /Unsupported Media Type/,
    look: partsOf,
  },
  {
    name: 'Uppy AwsS3 v6, by form',
    group: 's3',
    page: 'uppy-s3-v6-form',
    resumes: false,
    patience: retries,
    refusedType: /Unsupported Media Type/,
    look: null,
  },
]

/** Whether the first chunk is there. */
function firstChunkOf(exchanges: readonly Exchange[]): Look {
  return { method: 'GET', path: find(exchanges, 'GET', /^\/resumable\?.*ChunkNumber=1&/), absent: 204 }
}

function progressOf(exchanges: readonly Exchange[]): Look {
  const chunk = find(exchanges, 'POST', /^\/upload\/chunk\?/)
  const { searchParams } = new URL(chunk, 'http://server')
  return { method: 'GET', path: `/upload/progress/${searchParams.get('uploadId')}`, absent: 404 }
}

/** What parts are there. */
function partsOf(exchanges: readonly Exchange[]): Look {
  const signed = find(exchanges, 'GET', /^\/companion\/s3\/multipart\/[^/]+\/1\?key=/)
  return { method: 'GET', path: signed.replace('/1?', '?'), absent: 404 }
}

function find(exchanges: readonly Exchange[], method: string, pattern: RegExp): string {
  const found = exchanges.find((exchange) => exchange.method === method && pattern.test(exchange.path))
  if (!found) throw new Error(`no ${method} ${pattern} was sent`)
  return found.path
}
