import { rmSync } from 'node:fs'
import { defineConfig } from 'tsup'

// Here rather than by `clean`: the two builds run side by side, and one would remove what the other has written.
rmSync('dist', { recursive: true, force: true })

export default defineConfig([
  {
    entry: {
      index: 'src/index.ts',
      s3: 'src/s3.ts',
      tus: 'src/tus.ts',
      ietf: 'src/ietf.ts',
      resumablejs: 'src/resumablejs.ts',
      uppy: 'src/uppy.ts',
      redis: 'src/redis.ts',
      testing: 'src/testing.ts',
      'client-node': 'src/client-node.ts',
    },
    format: ['esm', 'cjs'],
    dts: true,
    // Shared chunks: without them every CJS entry would carry its own copy of the engine and the errors.
    splitting: true,
    target: 'node20',
    platform: 'node',
    sourcemap: true,
  },
  {
    // One file that needs nothing else: pages can load it as it is.
    entry: { client: 'src/client.ts' },
    format: ['esm', 'cjs'],
    dts: true,
    splitting: false,
    target: 'es2022',
    platform: 'browser',
    sourcemap: true,
  },
])
