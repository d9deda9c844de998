/** nginx with its WebDAV module, one process: what a server that is not Node makes of a PUT. */
import { spawnSync } from 'node:child_process'
import { mkdir, writeFile } from 'node:fs/promises'
import { connect, createServer } from 'node:net'
import { join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import { cpuSecondsOf, type Stage } from './processes.ts'
import { type Serving, Unavailable } from './serving.ts'

/** Its version, or why it cannot be measured. */
export function nginxVersion(): string {
  const { stderr, error } = spawnSync('nginx', ['-V'], { encoding: 'utf8' })
  if (error || process.platform !== 'linux') throw new Unavailable('no nginx on this machine')
  if (!stderr.includes('http_dav_module')) throw new Unavailable('this nginx has no WebDAV module')
  return /nginx\/(\S+)/.exec(stderr)?.[1] ?? 'unknown'
}

export async function startNginx(stage: Stage): Promise<Serving> {
  nginxVersion()
  const port = await freePort()
  const own = join(stage.folder, 'nginx')
  await mkdir(own)
  await writeFile(join(own, 'nginx.conf'), configuration(stage.folder, own, port))
  const child = stage.startProgram('nginx', ['-p', own, '-e', join(own, 'error.log'), '-c', join(own, 'nginx.conf')])
  for (let attempt = 0; !(await answers(port)); attempt++) {
    if (child.exitCode !== null || attempt > 200) throw new Unavailable('nginx does not start')
    await wait(25)
  }
  return { port, child, cpuSeconds: () => cpuSecondsOf(child), heapBytes: async () => null }
}

/** What it has received so far lies beside the target, so that the file gets its name by a rename. */
function configuration(target: string, own: string, port: number): string {
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
  return `
    daemon off;
    master_process off;
    pid ${own}/pid;
    events { worker_connections 1024; }
    http {
      access_log off;
      ${temporary.map((name) => `${name}_temp_path ${own}/${name};`).join(' ')}
      client_max_body_size 0;
      keepalive_requests 1000000;
      server {
        listen 127.0.0.1:${port};
        location / { root ${target}; dav_methods PUT; }
      }
    }`
}

async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  await new Promise((resolve) => server.close(resolve))
  if (address === null || typeof address === 'string') throw new Error('no port')
  return address.port
}

function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1')
    socket.once('connect', () => resolve(true)).once('error', () => resolve(false))
    socket.once('connect', () => socket.destroy())
  })
}
